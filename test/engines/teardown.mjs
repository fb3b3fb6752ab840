import { rmSync } from 'node:fs';

/** After the tests on real engines: what setup.mjs has started ends, and its data goes. */
export default async function teardown() {
  const { directory, engines } = globalThis.startedEngines;
  await Promise.all(engines.map((engine) => engine.wipe()));
  rmSync(directory, { recursive: true, force: true });
}
