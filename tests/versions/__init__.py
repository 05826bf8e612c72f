"""`python -m tests.versions`: the tests in environments with other versions, and the record of what was run."""
