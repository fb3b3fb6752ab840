import type { Migration } from 'kysely';
import { accounts } from './0001_accounts.js';

/** In the order in which they are applied. One that has been released is never changed: a later one mends it. */
export const migrations: Record<string, Migration> = {
  '0001_accounts': accounts,
};
