/** The promises of the wire contract that a history can show to be broken. */
export const faultKinds = {
  lost: 'accepted, but a device never got it',
  repeated: 'sent again to a device more than a second after that device confirmed it',
  doubled: 'one send became two messages',
  invented: 'delivered, but nobody sent it',
  misdelivered: 'delivered to a user whom it was not for',
  corrupted: 'content, sender, time or ids differ from what was accepted',
  reordered: 'out of the order of acceptance, or a backlog after something newer',
  timestampsDecreasing: "a sender's timestamps went back",
  receiptsMissing: 'confirmed, but a device of the sender never heard of it',
  receiptsRepeated: 'a receipt sent again more than a second after it was acknowledged',
  wrongStatus: 'a status that cannot follow, came twice, or that nobody caused',
} as const;

export type FaultKind = keyof typeof faultKinds;

/** How often a promise was broken, with up to 20 examples. */
export interface Fault {
  count: number;
  examples: string[];
}

export interface Counts {
  /** Distinct sends. */
  sends: number;
  /** Sends that the server took on. */
  accepted: number;
  /** Sends refused for good. */
  refused: number;
  /** Sends whose answer was never seen. */
  unanswered: number;
  /** Accepted messages that at least one device of a recipient got. */
  delivered: number;
  /** Accepted messages of which a sender's device heard that they were read. */
  read: number;
  /** Accepted messages that the server gave up, and said so. */
  failed: number;
  /** Messages at devices, each counted once. */
  copies: number;
  /** Repeats that are allowed: unconfirmed, or within the second that a confirmation takes. */
  redelivered: number;
  /** Receipts at devices, each counted once. */
  receipts: number;
  /** Repeats of receipts that are allowed. */
  receiptsRedelivered: number;
}

export interface Report {
  /** No promise was broken. */
  ok: boolean;
  counts: Counts;
  faults: Record<FaultKind, Fault>;
}

const maxExamples = 20;

/** Collects faults; examples beyond the twentieth are only counted. */
export class Faults {
  readonly #faults: Record<FaultKind, Fault>;

  constructor(from?: Faults) {
    this.#faults = Object.fromEntries(
      (Object.keys(faultKinds) as FaultKind[]).map((kind) => {
        const { count = 0, examples = [] } = from?.of(kind) ?? {};
        return [kind, { count, examples: [...examples] }];
      }),
    ) as Record<FaultKind, Fault>;
  }

  of(kind: FaultKind): Fault {
    return this.#faults[kind];
  }

  add(kind: FaultKind, example: () => string): void {
    const fault = this.#faults[kind];
    fault.count += 1;
    if (fault.examples.length < maxExamples) fault.examples.push(example());
  }

  report(counts: Counts): Report {
    return { ok: Object.values(this.#faults).every(({ count }) => count === 0), counts, faults: this.#faults };
  }
}

/** The report as text: the counts, then each promise with how often it was broken, then the examples. */
export function formatReport({ ok, counts, faults }: Report): string {
  const lines = Object.entries(counts).map(([name, count]) => row(count, name));
  lines.push(ok ? 'No promise was broken:' : 'Promises were broken:');
  for (const [kind, meaning] of Object.entries(faultKinds) as [FaultKind, string][]) {
    lines.push(row(faults[kind].count, `${kind}: ${meaning}`));
  }
  for (const [kind, { count, examples }] of Object.entries(faults)) {
    for (const example of examples) lines.push(`${kind}: ${example}`);
    if (count > examples.length && count > 0) lines.push(`${kind}: and ${count - examples.length} more`);
  }
  return lines.join('\n');
}

function row(count: number, text: string): string {
  return `${String(count).padStart(9)}  ${text}`;
}
