import pytest

pytest.register_assert_rewrite("botsessions.mailboxes.contract")
