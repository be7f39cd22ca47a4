import pytest

# The suites are not test modules by name: let their failures be explained all the same.
pytest.register_assert_rewrite("botsessions.mailboxes.contract")
