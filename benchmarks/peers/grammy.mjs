// grammY on node's own HTTP server, its sessions in PostgreSQL where DATABASE_URL is set, otherwise in Redis.

import http from "node:http";
import { PsqlAdapter } from "@grammyjs/storage-psql";
import { RedisAdapter } from "@grammyjs/storage-redis";
import { Bot, session, webhookCallback } from "grammy";
import { Redis } from "ioredis";
import pg from "pg";

const { BENCH_API_URL, BENCH_REPLY, BENCH_SECRET, BENCH_TOKEN, DATABASE_URL, PORT, REDIS_URL } = process.env;

const storage = DATABASE_URL
  ? await PsqlAdapter.create({
    tableName: "grammy_sessions",
    client: new pg.Pool({ connectionString: DATABASE_URL, max: 16 }),
  })
  : new RedisAdapter({ instance: new Redis(REDIS_URL) });

const bot = new Bot(BENCH_TOKEN, {
  client: { apiRoot: BENCH_API_URL },
  botInfo: { id: 1000001, is_bot: true, first_name: "Bench", username: "bench_bot" },
});
bot.use(session({ initial: () => ({ count: 0 }), storage }));
bot.on("message", async (ctx) => {
  ctx.session.count += 1;
  if (BENCH_REPLY === "1") await ctx.reply(`${ctx.session.count}`);
});

http
  .createServer(webhookCallback(bot, "http", { secretToken: BENCH_SECRET }))
  .listen(Number(PORT), "127.0.0.1");
