import type { MonotonicClock } from '@chatmesh/mesh';
import { MemoryPresenceStore } from '@chatmesh/presence';
import { presenceStoreContract } from './presence-store.js';

presenceStoreContract('memory', async (now) => new MemoryPresenceStore({ now, monotonicMs: now as MonotonicClock }));
