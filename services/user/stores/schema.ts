import type { ColumnType, Generated } from 'kysely';

/** The tables as the migrations leave them. */
export interface Schema {
  users: UsersTable;
  devices: DevicesTable;
  contacts: ContactsTable;
  blocks: BlocksTable;
  settings: SettingsTable;
  signing_keys: SigningKeysTable;
}

type Created = ColumnType<Date, Date, never>;

interface UsersTable {
  id: string;
  contact_number: string | null;
  name: Generated<string>;
  email: Generated<string>;
  picture_url: Generated<string>;
  created_at: Created;
  suspended_at: Date | null;
  deleted_at: Date | null;
}

interface DevicesTable {
  user_id: string;
  id: string;
  created_at: Created;
  revoked_at: Date | null;
  announced_at: Date | null;
}

interface ContactsTable {
  user_id: string;
  contact_id: string;
  alias: Generated<string>;
  created_at: Created;
}

interface BlocksTable {
  user_id: string;
  blocked_id: string;
  created_at: Created;
}

interface SettingsTable {
  user_id: string;
  read_receipts: Generated<boolean>;
  last_seen: Generated<'everyone' | 'contacts' | 'nobody'>;
}

interface SigningKeysTable {
  id: string;
  private_jwk: string;
  created_at: Created;
}
