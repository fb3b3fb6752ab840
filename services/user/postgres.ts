// The user database on a PostgreSQL server: loaded when it is configured.
export { PostgresEngine } from './stores/postgres-engine.js';
