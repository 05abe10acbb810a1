// The application of app.py in TypeScript's SDK, with the same orders on stdin.
import { appendFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.SDK_HOME + "/");
const { DBOS } = require("@dbos-inc/dbos-sdk");
const sleep = (secs) => new Promise((done) => setTimeout(done, secs * 1000));

async function work(number, secs) {
  await sleep(secs);
  appendFileSync(process.env.NOTES, `${DBOS.workflowID} ${number}\n`);
  return number;
}

const job = DBOS.registerWorkflow(
  async (steps, secs) => {
    for (let number = 0; number < steps; number++) {
      await DBOS.runStep(() => work(number, secs), { name: "work" });
    }
    return `${steps} steps done`;
  },
  { name: "job" },
);

const broken = DBOS.registerWorkflow(
  async () => {
    throw new Error("no such luck");
  },
  { name: "broken" },
);

const talk = DBOS.registerWorkflow(
  async () => {
    await DBOS.setEvent("progress", "half");
    const message = await DBOS.recv("news", 30);
    for (const word of ["one", "two"]) await DBOS.writeStream("words", word);
    return message;
  },
  { name: "talk" },
);

DBOS.setConfig({
  name: process.env.APP,
  systemDatabaseUrl: process.env.APP_DATABASE_URL,
  applicationVersion: process.env.APP_VERSION,
});
await DBOS.launch({
  conductorURL: process.env.CONDUCTOR_URL,
  conductorKey: process.env.CONDUCTOR_KEY,
  conductorMetadataOnlyMode: Boolean(process.env.APP_METADATA_ONLY),
});
createInterface({ input: process.stdin }).on("line", async (line) => {
  const [order, workflowID, steps, secs] = line.split(" ");
  if (order === "fail") await DBOS.startWorkflow(broken, { workflowID })();
  else if (order === "talk") {
    await DBOS.startWorkflow(talk, { workflowID })();
    await DBOS.send(workflowID, "hello", "news");
  } else await DBOS.startWorkflow(job, { workflowID })(Number(steps), Number(secs));
});
setInterval(() => {}, 1000);
