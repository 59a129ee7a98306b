// Sends so many newsletters for each line of its input, through nodemailer's pool. Template literals stand for
// a template engine: nothing that a user of nodemailer takes is faster.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const nodemailer = createRequire(process.argv[2] + "/")("nodemailer");
const transport = nodemailer.createTransport({
  pool: true,
  host: "127.0.0.1",
  port: Number(process.argv[3]),
  maxConnections: Number(process.argv[4]),
  maxMessages: Infinity,
  secure: false,
  ignoreTLS: true,
  name: "nodemailer.test",
});
const words = "A line of news that is neither long nor short, as newsletters have them. ";
const paragraphs = `<p>${words}${words}</p>\n`.repeat(15);
const lines = `${words}\n`.repeat(22);

function compose(n) {
  const name = `Anna${n % 1000}`, city = "Hamburg", token = n.toString(16).padStart(8, "0");
  const link = `https://example.com/u/${token}`;
  return {
    from: "News <news@example.com>",
    to: `user${n}@example${n % 97}.com`,
    subject: `Hello ${name}, the news`,
    html: `<html><body><h1>Hello ${name}</h1>\n${paragraphs}` +
      `<p>${city}: <a href="${link}">unsubscribe</a></p></body></html>\n`,
    text: `Hello ${name},\n\n${lines}${city}: ${link}\n`,
  };
}

// As nodemailer's page on pooled connections shows it: give while the pool is idle.
let next = 0, last = 0, done = 0, told = () => {};
function give() {
  while (next < last && transport.isIdle()) {
    transport.sendMail(compose(next++)).then(() => {
      if (++done === last) told();
    }, (error) => {
      console.error(error);
      process.exit(1);
    });
  }
}
transport.on("idle", give);

for await (const line of createInterface({ input: process.stdin })) {
  const all = new Promise((resolve) => (told = resolve));
  [next, done, last] = [0, 0, Number(line)];
  give();
  await all;
  process.stdout.write(`${line}\n`);
}
transport.close();
