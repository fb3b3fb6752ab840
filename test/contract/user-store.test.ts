import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '@chatmesh/mesh';
import { PgliteEngine, SqlUserStore } from '@chatmesh/user';
import { afterAll } from '@jest/globals';
import { userStoreContract } from './user-store.js';

const directory = mkdtempSync(join(tmpdir(), 'chatmesh-users-'));
const logger = createLogger({ name: 'test', level: 'silent' });

userStoreContract('PGlite', async () =>
  SqlUserStore.open(await PgliteEngine.open(join(directory, 'database'), logger)),
);

afterAll(() => rmSync(directory, { recursive: true, force: true }));
