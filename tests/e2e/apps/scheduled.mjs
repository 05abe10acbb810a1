// The application of scheduled.py in TypeScript's SDK, with the same orders on stdin.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.SDK_HOME + "/");
const { DBOS } = require("@dbos-inc/dbos-sdk");

async function work(number, secs) {
  await new Promise((done) => setTimeout(done, secs * 1000));
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
    await DBOS.runStep(() => work(0, 0), { name: "work" });
    throw new Error("no such luck");
  },
  { name: "broken" },
);

const tick = DBOS.registerWorkflow(
  async (scheduledAt, context) => `ticked for ${context.made_by}`,
  { name: "tick" },
);

DBOS.setConfig({
  name: process.env.APP,
  systemDatabaseUrl: process.env.APP_DATABASE_URL,
  applicationVersion: process.env.APP_VERSION,
});
await DBOS.launch({
  conductorURL: process.env.CONDUCTOR_URL,
  conductorKey: process.env.CONDUCTOR_KEY,
});
await DBOS.registerQueue("line", { workerConcurrency: 1, concurrency: 4 });
await DBOS.createSchedule({
  scheduleName: "nightly",
  workflowFn: tick,
  schedule: "0 3 * * *",
  context: { made_by: "test" },
});
const start = (workflow, workflowID, queueName, ...parameters) =>
  DBOS.startWorkflow(workflow, { workflowID, queueName })(...parameters);
createInterface({ input: process.stdin }).on("line", async (line) => {
  const [order, id, ...numbers] = line.split(" ");
  const [first, second] = numbers.map(Number);
  if (order === "start") await start(job, id, undefined, first, second);
  if (order === "fail") await start(broken, id, undefined);
  if (order === "enqueue") {
    await start(job, `${id}-hold`, "line", 600, 1);
    for (let number = 0; number < first; number++) {
      await start(job, `${id}-${number}`, "line", 1, 0);
    }
  }
});
setInterval(() => {}, 1000);
