"""aiogram behind aiohttp, its sessions in Redis.

With `BENCH_ISOLATION` it handles one update of a user at a time.
"""

import os

import uvloop
from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.redis import RedisStorage
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

router = Router()
replies = os.environ["BENCH_REPLY"] == "1"


@router.message()
async def count(message: Message, state: FSMContext) -> None:
    data = await state.get_data()
    data["count"] = data.get("count", 0) + 1
    await state.set_data(data)
    if replies:
        await message.answer(f"{data['count']}")


def application() -> web.Application:
    # redis-py's own limit of 100 fails updates at 128 connections.
    pool = {"max_connections": 1_000}
    storage = RedisStorage.from_url(os.environ["REDIS_URL"], connection_kwargs=pool)
    isolation = storage.create_isolation() if os.environ.get("BENCH_ISOLATION") else None
    dispatcher = Dispatcher(storage=storage, events_isolation=isolation)
    dispatcher.include_router(router)
    api = TelegramAPIServer.from_base(os.environ["BENCH_API_URL"])
    bot = Bot(os.environ["BENCH_TOKEN"], session=AiohttpSession(api=api))
    app = web.Application()
    webhook = SimpleRequestHandler(
        dispatcher, bot, handle_in_background=False, secret_token=os.environ["BENCH_SECRET"]
    )
    webhook.register(app, path="/webhook")
    setup_application(app, dispatcher, bot=bot)
    return app


if __name__ == "__main__":
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
