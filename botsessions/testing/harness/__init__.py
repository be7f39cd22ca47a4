"""The race and crash harness: do the promises hold with this project's settings, on this machine?

    DJANGO_SETTINGS_MODULE=shop.settings python -m botsessions.testing.harness

A history of updates is delivered to real processes, as platforms deliver: in order within a chat,
some of them several times and at once, again where no answer came. Meanwhile the processes are
killed at the engine's named points, and paused for longer than their leases last. In the end every
chat's session must have heard each of its updates once, and in order.

    history     what is said, what is said twice, who is killed where: all of it chosen by a seed
    bot         the harness's own bot, whose sessions note what they heard
    mailbox     the mailbox under test, kept away from everybody else's updates
    worker      a process with an engine, and `wire`, what it and the parent tell each other
    crew        the parent's end of the processes: started, spoken to, killed, replaced
    director    delivers the history and strikes
    tally       what has happened so far, counted
    rows        what the harness leaves in the database, read and deleted
    verdict     lost, doubled, misordered
    preflight   what must be so before anything begins
    run         one run, from its settings to its exit status
    command     the command line
"""
