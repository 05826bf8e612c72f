"""`python -m sparsify`, and `torchrun --nproc_per_node N -m sparsify train …`: the command line."""

from sparsify.cli import main

if __name__ == "__main__":
    main()
