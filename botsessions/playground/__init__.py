"""The playground: a page where one person talks to a bot as one of several, over `LocalPlatform`.

It is a network's client, not a way into the engine: what is said is recorded in the bot's
`LocalChat` and delivered through the webhook's own door. Include `botsessions.playground.urls` to
have it.
"""
