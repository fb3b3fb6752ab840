/**
 * The member with the highest hash of (member, key): every edge picks the same member for a key, and when a member goes
 * only its keys move (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996).
 */
export function rendezvous<T>(key: string, members: Iterable<T>, nameOf: (member: T) => string): T | undefined {
  let best: T | undefined;
  let bestScore = -1;
  for (const member of members) {
    const score = mix(fnv1a(key, fnv1a(nameOf(member), 0x811c9dc5)));
    if (score > bestScore) {
      best = member;
      bestScore = score;
    }
  }
  return best;
}

function fnv1a(text: string, seed: number): number {
  let h = seed;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

/** Finalizer of MurmurHash3: FNV alone leaves the high bits of similar names alike. */
function mix(hash: number): number {
  let h = hash;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
