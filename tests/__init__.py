import pytest

# The suites for backends are no test modules by name: let their failures be explained all the same.
pytest.register_assert_rewrite("botsessions.mailboxes.contract", "botsessions.stores.contract")
