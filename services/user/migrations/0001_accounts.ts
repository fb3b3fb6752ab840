import { type Kysely, type Migration, sql } from 'kysely';

/** Accounts, their devices, address books, blocks and settings, and the keys that tokens are signed with. */
export const accounts: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('users')
      .addColumn('id', 'uuid', (c) => c.primaryKey())
      // Null for a user that another issuer's token brought.
      .addColumn('contact_number', 'text', (c) => c.unique())
      .addColumn('name', 'text', (c) => c.notNull().defaultTo(''))
      .addColumn('email', 'text', (c) => c.notNull().defaultTo(''))
      .addColumn('picture_url', 'text', (c) => c.notNull().defaultTo(''))
      .addColumn('created_at', 'timestamptz', (c) => c.notNull())
      .addColumn('suspended_at', 'timestamptz')
      .addColumn('deleted_at', 'timestamptz')
      .execute();

    await db.schema
      .createTable('devices')
      .addColumn('user_id', 'uuid', (c) => c.notNull().references('users.id').onDelete('cascade'))
      // Unique per user only: the nil UUID stands for the device of each token that names none.
      .addColumn('id', 'uuid', (c) => c.notNull())
      .addColumn('created_at', 'timestamptz', (c) => c.notNull())
      .addColumn('revoked_at', 'timestamptz')
      // When its registration stood in the user's stream; until then it is announced at each admission.
      .addColumn('announced_at', 'timestamptz')
      .addPrimaryKeyConstraint('devices_pkey', ['user_id', 'id'])
      .execute();

    await db.schema
      .createTable('contacts')
      .addColumn('user_id', 'uuid', (c) => c.notNull().references('users.id').onDelete('cascade'))
      .addColumn('contact_id', 'uuid', (c) => c.notNull().references('users.id').onDelete('cascade'))
      .addColumn('alias', 'text', (c) => c.notNull().defaultTo(''))
      .addColumn('created_at', 'timestamptz', (c) => c.notNull())
      .addPrimaryKeyConstraint('contacts_pkey', ['user_id', 'contact_id'])
      .execute();
    // Deleting a user looks for the entries that point to it.
    await db.schema.createIndex('contacts_contact_id').on('contacts').column('contact_id').execute();

    await db.schema
      .createTable('blocks')
      .addColumn('user_id', 'uuid', (c) => c.notNull().references('users.id').onDelete('cascade'))
      .addColumn('blocked_id', 'uuid', (c) => c.notNull().references('users.id').onDelete('cascade'))
      .addColumn('created_at', 'timestamptz', (c) => c.notNull())
      .addPrimaryKeyConstraint('blocks_pkey', ['user_id', 'blocked_id'])
      .execute();
    await db.schema.createIndex('blocks_blocked_id').on('blocks').column('blocked_id').execute();

    // A user without a row has the defaults.
    await db.schema
      .createTable('settings')
      .addColumn('user_id', 'uuid', (c) => c.primaryKey().references('users.id').onDelete('cascade'))
      .addColumn('read_receipts', 'boolean', (c) => c.notNull().defaultTo(true))
      .addColumn('last_seen', 'text', (c) =>
        c.notNull().defaultTo('everyone').check(sql`last_seen in ('everyone', 'contacts', 'nobody')`),
      )
      .execute();

    await db.schema
      .createTable('signing_keys')
      .addColumn('id', 'text', (c) => c.primaryKey())
      // A JWK (RFC 7517) with its private part.
      .addColumn('private_jwk', 'text', (c) => c.notNull())
      .addColumn('created_at', 'timestamptz', (c) => c.notNull())
      .execute();
  },

  async down(db: Kysely<unknown>): Promise<void> {
    for (const table of ['signing_keys', 'settings', 'blocks', 'contacts', 'devices', 'users']) {
      await db.schema.dropTable(table).execute();
    }
  },
};
