/**
 * A small shop on DBOS: steps, children, a queue, a schedule, events and a failure.
 *
 * Several processes of it share one PostgreSQL database. Each is an executor; Conductor
 * watches them. Every step notes that it ran in a file, so that anyone can check
 * afterwards that no finished step ran twice.
 *
 *     DBOS_DATABASE=postgresql://localhost/shop CONDUCTOR_URL=ws://127.0.0.1:8090 \
 *         CONDUCTOR_KEY=dbos_… node dist/app.js --load
 */
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DBOS } from "@dbos-inc/dbos-sdk";

const { env, argv } = process;
const STEP_SECS = Number(env.STEP_SECS ?? "0.5");
const LOAD = Number(env.LOAD ?? "12");
const NOTES = env.STEP_NOTES ?? "steps.log";

/** Append one short line; the operating system keeps such appends whole. */
function note(step: string): void {
  appendFileSync(NOTES, `${DBOS.workflowID} ${step}\n`);
}

// --- Steps ---

const reserve = DBOS.registerStep(
  async (order: number) => {
    await sleep(STEP_SECS * 1000);
    note("reserve");
    return `reservation-${order}`;
  },
  { name: "reserve" },
);

const charge = DBOS.registerStep(
  async (order: number) => {
    await sleep(STEP_SECS * 1000);
    note("charge");
    return order * 100;
  },
  { name: "charge" },
);

const pack = DBOS.registerStep(
  async (parcel: number) => {
    await sleep(STEP_SECS * 1000);
    note(`pack-${parcel}`);
    return parcel;
  },
  { name: "pack" },
);

const refuse = DBOS.registerStep(
  async (order: number) => {
    note("refuse");
    throw new Error(`order ${order} has no address`);
  },
  { name: "refuse" },
);

// --- Workflows ---

const packParcel = DBOS.registerWorkflow(
  async (_order: number, parcel: number) => pack(parcel),
  { name: "pack_parcel" },
);

/** One order: reserve, charge, and pack two parcels as children on a queue. */
const processOrder = DBOS.registerWorkflow(
  async (order: number) => {
    await DBOS.setEvent("progress", "reserving");
    await reserve(order);
    const paid = await charge(order);
    await DBOS.setEvent("progress", "packing");
    const parcels = [];
    for (const number of [0, 1]) {
      const start = DBOS.startWorkflow(packParcel, { queueName: "packing" });
      parcels.push(await start(order, number));
    }
    for (const parcel of parcels) {
      await parcel.getResult();
    }
    await DBOS.setEvent("progress", "done");
    return paid;
  },
  { name: "process_order" },
);

/** Always fails: something to look at in the console. */
const badOrder = DBOS.registerWorkflow(
  async (order: number) => {
    await refuse(order);
  },
  { name: "bad_order" },
);

/** Runs every minute. */
const tidy = DBOS.registerWorkflow(
  async (_scheduledAt: Date, _context: unknown) => {},
  { name: "tidy" },
);

// --- The process ---

DBOS.setConfig({
  name: env.DBOS_APP_NAME ?? "shop",
  systemDatabaseUrl: env.DBOS_DATABASE,
  applicationVersion: env.APP_VERSION ?? "1.0.0",
});
await DBOS.launch({
  conductorURL: env.CONDUCTOR_URL,
  conductorKey: env.CONDUCTOR_KEY,
});
await DBOS.registerQueue("packing", { concurrency: 4 });

const me = DBOS.executorID.slice(0, 8);
if (argv.includes("--load")) {
  await DBOS.applySchedules([
    { scheduleName: "tidy", workflowFn: tidy, schedule: "* * * * *" },
  ]);
  await DBOS.startWorkflow(badOrder, { workflowID: `bad-${me}` })(13);
}
if (argv.includes("--load") || argv.includes("--orders")) {
  for (let number = 0; number < LOAD; number++) {
    const workflowID = `order-${me}-${number}`;
    await DBOS.startWorkflow(processOrder, { workflowID })(number);
  }
}
setInterval(() => {}, 60_000);
