/** How our variables begin, and what people write instead. */
const FAMILIES = [
  'EDGE_',
  'CHAT_',
  'USER_',
  'PRESENCE_',
  'AUTH_',
  'ADMIN_',
  'MESH_',
  'PULSAR_',
  'SCYLLA_',
  'REDIS_',
  'DATABASE_',
  'SEND_',
  'DELIVERY_',
  'MAX_CONNECTION',
  'DATA_DIR',
  'DATADIR',
];

/** Set by a widespread editor's terminal, for itself. */
const FOREIGN = new Set(['USER_ZDOTDIR']);

/** Names that look like ours and that nobody has read, in alphabetical order. */
export function unreadFamilyNames(env: NodeJS.ProcessEnv, known: ReadonlySet<string>): string[] {
  return Object.keys(env)
    .filter((name) => !known.has(name) && !FOREIGN.has(name) && FAMILIES.some((family) => name.startsWith(family)))
    .filter((name) => !isServiceLink(name, env[name] ?? ''))
    .sort();
}

/** True for what Kubernetes sets in every pod, for every Service of the namespace. */
export function isServiceLink(name: string, value: string): boolean {
  return (
    /_SERVICE_HOST$|_SERVICE_PORT(_.*)?$|_PORT_\d+_(TCP|UDP|SCTP)(_.*)?$/.test(name) ||
    /^(tcp|udp|sctp):\/\//.test(value)
  );
}

/** The known name that was probably meant, if there is one. */
export function suggestion(name: string, known: Iterable<string>): string | undefined {
  let best: { name: string; distance: number } | undefined;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (!best || distance < best.distance) best = { name: candidate, distance };
  }
  if (!best) return undefined;
  const close =
    best.distance <= Math.max(2, name.length / 3) || name.startsWith(best.name) || best.name.startsWith(name);
  return close ? best.name : undefined;
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitute, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}
