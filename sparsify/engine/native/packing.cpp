// From a matrix by rows to the packed form, and back.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "engine.h"
#include "layout.h"

namespace sparsify {
namespace {

constexpr uint32_t CHUNK = 256;                        // rows: sums of 64 KB for 64 tokens
constexpr uint32_t WIDE_BLOCK = 192, NARROW_BLOCK = 128;  // columns: inputs of 48 and 32 KB for 64 tokens
constexpr double FEW = 0.15;  // the density below which more columns a block pay: segments would be too short else

// Of everything but the checksum itself; FNV-1a, eight bytes at a time (sizes are multiples of 64).
uint64_t checksum_of(const void* packed, uint64_t bytes) {
    uint64_t found = 0xcbf29ce484222325;
    for (uint64_t i = 0; i < bytes; i += 8) {
        if (i == offsetof(Header, checksum)) continue;
        uint64_t word;
        std::memcpy(&word, static_cast<const char*>(packed) + i, 8);
        found = (found ^ word) * 0x100000001b3;
    }
    return found;
}

struct Matrix {
    uint64_t rows, columns;
    const int64_t* starts;
    const int32_t* indices;
    const float* values;
};

bool valid(const Matrix& m) {
    if (m.rows == 0 || m.columns == 0 || m.rows > MOST_SIDE || m.columns > MOST_SIDE || m.starts[0] != 0) return false;
    for (uint64_t row = 0; row < m.rows; ++row) {
        if (m.starts[row + 1] < m.starts[row]) return false;
        int64_t before = -1;
        for (int64_t i = m.starts[row]; i < m.starts[row + 1]; ++i) {
            if (m.indices[i] <= before || static_cast<uint64_t>(m.indices[i]) >= m.columns) return false;
            before = m.indices[i];
        }
    }
    return true;
}

bool valid_height(uint32_t height) { return height == 1 || height == 2 || height == 4; }

struct Segment {
    uint32_t group, count;
};

// Walks over panels in their order. In each, for each group, `columns` are what any of its rows has in the block.
template <class PerPanel>
void walk(const Matrix& m, const Header& header, PerPanel per_panel) {
    const uint64_t chunks = chunks_of(header), blocks = blocks_of(header);
    std::vector<int64_t> places(header.chunk);
    std::vector<std::vector<uint8_t>> columns(header.chunk / header.height);
    std::vector<int64_t> begins(header.chunk);
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
        const uint64_t first = chunk * header.chunk, rows = std::min<uint64_t>(header.chunk, m.rows - first);
        const uint64_t groups = parts(rows, header.height);
        for (uint64_t r = 0; r < rows; ++r) places[r] = m.starts[first + r];
        for (uint64_t block = 0; block < blocks; ++block) {
            const int64_t from = block * header.block, to = from + header.block;
            for (uint64_t g = 0; g < groups; ++g) {
                auto& found = columns[g];
                found.clear();
                for (uint64_t r = g * header.height; r < std::min<uint64_t>(rows, (g + 1) * header.height); ++r) {
                    begins[r] = places[r];
                    for (; places[r] < m.starts[first + r + 1] && m.indices[places[r]] < to; ++places[r])
                        found.push_back(static_cast<uint8_t>(m.indices[places[r]] - from));
                }
                if (header.height > 1) {
                    std::sort(found.begin(), found.end());
                    found.erase(std::unique(found.begin(), found.end()), found.end());
                }
            }
            per_panel(chunk * blocks + block, first, rows, groups, from, columns, begins);
        }
    }
}

std::vector<Segment> segments_of(uint64_t groups, const std::vector<std::vector<uint8_t>>& columns) {
    std::vector<Segment> found;
    for (uint64_t g = 0; g < groups; ++g)
        if (!columns[g].empty())
            found.push_back({static_cast<uint32_t>(g), static_cast<uint32_t>(columns[g].size())});
    std::stable_sort(found.begin(), found.end(), [](const Segment& a, const Segment& b) { return a.count < b.count; });
    return found;
}

uint32_t runs_of(const std::vector<Segment>& segments) {
    uint32_t runs = 0;
    for (size_t i = 0; i < segments.size(); ++i) runs += i == 0 || segments[i].count != segments[i - 1].count;
    return runs;
}

Header described(const Matrix& m, uint32_t height) {
    const double density = static_cast<double>(m.starts[m.rows]) / static_cast<double>(m.rows) / m.columns;
    Header header{};
    header.magic = MAGIC;
    header.value_type = FLOAT32;
    header.height = height;
    header.block = density < FEW ? WIDE_BLOCK : NARROW_BLOCK;
    header.chunk = CHUNK;
    header.rows = m.rows;
    header.columns = m.columns;
    return header;
}

// Where everything lies; returns the bytes of all.
uint64_t laid_out(const Matrix& m, Header& header, std::vector<Panel>& panels) {
    panels.assign(chunks_of(header) * blocks_of(header), Panel{});
    uint64_t end = aligned(sizeof(Header) + panels.size() * sizeof(Panel));
    const auto taken = [&end](uint64_t bytes) {
        const uint64_t begin = end;
        end += aligned(bytes);
        return begin;
    };
    walk(m, header, [&](uint64_t number, uint64_t, uint64_t, uint64_t groups, int64_t, const auto& columns, const auto&) {
        const auto segments = segments_of(groups, columns);
        Panel& panel = panels[number];
        panel.segments = static_cast<uint32_t>(segments.size());
        panel.runs = runs_of(segments);
        for (const Segment& each : segments) panel.entries += each.count;
        panel.runs_at = taken(panel.runs * sizeof(Run));
        panel.groups_at = taken(panel.segments * sizeof(uint16_t));
        panel.columns_at = taken(panel.entries);
        panel.values_at = taken(uint64_t{panel.entries} * header.height * sizeof(float));
        header.entries += panel.entries;
    });
    return header.bytes = end;
}

void fill(const Matrix& m, const Header& header, const std::vector<Panel>& panels, char* out) {
    std::memset(out, 0, header.bytes);
    std::memcpy(out + sizeof(Header), panels.data(), panels.size() * sizeof(Panel));
    walk(m, header, [&](uint64_t number, uint64_t first, uint64_t rows, uint64_t groups, int64_t from, const auto& columns,
                        const auto& begins) {
        const Panel& panel = panels[number];
        Run* run = reinterpret_cast<Run*>(out + panel.runs_at) - 1;
        uint16_t* group = reinterpret_cast<uint16_t*>(out + panel.groups_at);
        uint8_t* places = reinterpret_cast<uint8_t*>(out + panel.columns_at);
        float* values = reinterpret_cast<float*>(out + panel.values_at);
        uint32_t before = 0;
        for (const Segment& each : segments_of(groups, columns)) {
            if (each.count != before) *++run = {static_cast<uint16_t>(before = each.count), 0};
            ++run->segments;
            *group++ = static_cast<uint16_t>(each.group);
            const auto& mine = columns[each.group];
            std::copy(mine.begin(), mine.end(), places);
            places += mine.size();
            for (uint32_t h = 0; h < header.height; ++h) {
                const uint64_t row = uint64_t{each.group} * header.height + h;
                if (row >= rows) continue;
                int64_t place = begins[row];
                const int64_t end = m.starts[first + row + 1];
                for (size_t j = 0; j < mine.size(); ++j)
                    if (place < end && m.indices[place] == from + mine[j])
                        values[j * header.height + h] = m.values[place++];
            }
            values += mine.size() * header.height;
        }
    });
}

bool inside(uint64_t begin, uint64_t size, uint64_t bytes, uint64_t unit) {
    return begin % unit == 0 && begin >= sizeof(Header) && begin <= bytes && size <= bytes - begin;
}

bool valid_header(const void* packed, uint64_t bytes) {
    if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(Header) || bytes < sizeof(Header)) return false;
    const Header& h = header_of(packed);
    return h.magic == MAGIC && h.bytes == bytes && bytes % ALIGNMENT == 0 && h.value_type == FLOAT32 &&
           valid_height(h.height) && h.block > 0 && h.block <= MOST_BLOCK && h.chunk > 0 && h.chunk <= MOST_CHUNK &&
           h.chunk % h.height == 0 && h.rows > 0 && h.rows <= MOST_SIDE && h.columns > 0 && h.columns <= MOST_SIDE;
}

bool valid_panel(const void* packed, const Header& h, const Panel& p, uint64_t rows, uint64_t width) {
    const uint64_t groups = parts(rows, h.height);
    if (p.segments > groups || p.runs > p.segments || p.entries > uint64_t{p.segments} * width ||
        !inside(p.runs_at, p.runs * sizeof(Run), h.bytes, alignof(Run)) ||
        !inside(p.groups_at, p.segments * sizeof(uint16_t), h.bytes, alignof(uint16_t)) ||
        !inside(p.columns_at, p.entries, h.bytes, 1) ||
        !inside(p.values_at, uint64_t{p.entries} * h.height * sizeof(float), h.bytes, alignof(float)))
        return false;
    uint64_t segments = 0, entries = 0;
    const Run* run = at<Run>(packed, p.runs_at);
    for (uint32_t i = 0; i < p.runs; ++i) {
        segments += run[i].segments;
        entries += uint64_t{run[i].segments} * run[i].count;
    }
    if (segments != p.segments || entries != p.entries) return false;
    const uint16_t* group = at<uint16_t>(packed, p.groups_at);
    for (uint32_t i = 0; i < p.segments; ++i)
        if (group[i] >= groups) return false;
    const uint8_t* column = at<uint8_t>(packed, p.columns_at);
    for (uint32_t i = 0; i < p.entries; ++i)
        if (column[i] >= width) return false;
    return true;
}

}  // namespace

bool known(const void* packed, uint64_t bytes) { return valid_header(packed, bytes); }

}  // namespace sparsify

using namespace sparsify;

extern "C" {

int64_t sparsify_packed_bytes(uint64_t rows, uint64_t columns, const int64_t* starts, const int32_t* indices,
                              uint32_t height) {
    const Matrix matrix{rows, columns, starts, indices, nullptr};
    if (!valid_height(height)) return SPARSIFY_BAD_ARGUMENT;
    if (!valid(matrix)) return SPARSIFY_BAD_MATRIX;
    try {
        Header header = described(matrix, height);
        std::vector<Panel> panels;
        return static_cast<int64_t>(laid_out(matrix, header, panels));
    } catch (const std::bad_alloc&) {
        return SPARSIFY_NO_MEMORY;
    }
}

int32_t sparsify_pack(uint64_t rows, uint64_t columns, const int64_t* starts, const int32_t* indices, const void* values,
                      uint32_t value_type, uint32_t height, void* packed, uint64_t bytes) {
    const Matrix matrix{rows, columns, starts, indices, static_cast<const float*>(values)};
    if (!valid_height(height) || value_type != FLOAT32) return SPARSIFY_BAD_ARGUMENT;
    if (!valid(matrix)) return SPARSIFY_BAD_MATRIX;
    try {
        Header header = described(matrix, height);
        std::vector<Panel> panels;
        if (laid_out(matrix, header, panels) != bytes) return SPARSIFY_BAD_ARGUMENT;
        fill(matrix, header, panels, static_cast<char*>(packed));
        std::memcpy(packed, &header, sizeof(Header));
        header.checksum = checksum_of(packed, bytes);
        std::memcpy(packed, &header, sizeof(Header));
        return SPARSIFY_OK;
    } catch (const std::bad_alloc&) {
        return SPARSIFY_NO_MEMORY;
    }
}

int32_t sparsify_check(const void* packed, uint64_t bytes) {
    if (!valid_header(packed, bytes)) return SPARSIFY_BAD_PACKED;
    const Header& header = header_of(packed);
    const uint64_t chunks = chunks_of(header), blocks = blocks_of(header);
    if (chunks * blocks > (bytes - sizeof(Header)) / sizeof(Panel)) return SPARSIFY_BAD_PACKED;
    if (checksum_of(packed, bytes) != header.checksum) return SPARSIFY_BAD_PACKED;
    for (uint64_t chunk = 0; chunk < chunks; ++chunk)
        for (uint64_t block = 0; block < blocks; ++block) {
            const uint64_t rows = std::min<uint64_t>(header.chunk, header.rows - chunk * header.chunk);
            const uint64_t width = std::min<uint64_t>(header.block, header.columns - block * header.block);
            if (!valid_panel(packed, header, panels_of(packed)[chunk * blocks + block], rows, width))
                return SPARSIFY_BAD_PACKED;
        }
    return SPARSIFY_OK;
}

int32_t sparsify_unpack(const void* packed, uint64_t bytes, void* dense) {
    if (!valid_header(packed, bytes)) return SPARSIFY_BAD_PACKED;
    const Header& header = header_of(packed);
    const uint64_t chunks = chunks_of(header), blocks = blocks_of(header);
    float* out = static_cast<float*>(dense);
    std::memset(out, 0, header.rows * header.columns * sizeof(float));
    for (uint64_t number = 0; number < chunks * blocks; ++number) {
        const Panel& panel = panels_of(packed)[number];
        const uint64_t first = number / blocks * header.chunk, from = number % blocks * header.block;
        const uint16_t* group = at<uint16_t>(packed, panel.groups_at);
        const uint8_t* column = at<uint8_t>(packed, panel.columns_at);
        const float* value = at<float>(packed, panel.values_at);
        for (uint32_t i = 0; i < panel.runs; ++i) {
            const Run run = at<Run>(packed, panel.runs_at)[i];
            for (uint32_t s = 0; s < run.segments; ++s, ++group)
                for (uint32_t j = 0; j < run.count; ++j, ++column)
                    for (uint32_t h = 0; h < header.height; ++h, ++value) {
                        const uint64_t row = first + uint64_t{*group} * header.height + h;
                        if (row < header.rows) out[row * header.columns + from + *column] = *value;
                    }
        }
    }
    return SPARSIFY_OK;
}

}  // extern "C"
