import { readFileSync, writeFileSync } from 'node:fs';

const PAGE = 4096;
const HEADER = 24;
const OVERFLOW = 4;
const LEAF = 2;

/** What a kind of damage works on. */
export interface Target {
  readonly bytes: Buffer;
  /** The same file, some time before. */
  readonly older: Buffer;
  /** A whole number below `below`. */
  readonly random: (below: number) => number;
}

/** Kinds of damage of a data file; what is returned takes its place. */
export const DAMAGES: Record<string, (target: Target) => Buffer> = {
  'bytes flipped'({ bytes, random }) {
    for (let n = 1 + random(8); n > 0; n--) flip(bytes, random(bytes.length), random);
    return bytes;
  },
  'a byte of a message flipped'({ bytes, random }) {
    const texts = [...bytes.toString('latin1').matchAll(/([A-Za-z0-9+/]{43}=)\1/g)];
    for (let n = 3; n > 0; n--) flip(bytes, (texts[random(texts.length)]?.index ?? 0) + random(88), random);
    return bytes;
  },
  'pages zeroed'({ bytes, random }) {
    for (let n = 1 + random(3); n > 0; n--) bytes.fill(0, ...pageOf(random(pagesOf(bytes))));
    return bytes;
  },
  'pages of noise'({ bytes, random }) {
    for (let n = 1 + random(3); n > 0; n--) {
      const [start, end] = pageOf(random(pagesOf(bytes)));
      for (let at = start; at < end; at++) bytes[at] = random(256);
    }
    return bytes;
  },
  'two pages swapped'({ bytes, random }) {
    const [a, b] = [pageOf(2 + random(pagesOf(bytes) - 2)), pageOf(2 + random(pagesOf(bytes) - 2))];
    const copy = Buffer.from(bytes.subarray(...a));
    bytes.copy(bytes, a[0], ...b);
    copy.copy(bytes, b[0]);
    return bytes;
  },
  'pages from an older state'({ bytes, older, random }) {
    const changed = Array.from({ length: pagesOf(older) }, (_, page) => pageOf(page)).filter(
      ([start, end]) => older.compare(bytes, start, end, start, end) !== 0,
    );
    for (let n = 1 + random(3); n > 0; n--) {
      const page = changed[random(changed.length)] as [number, number];
      older.copy(bytes, page[0], ...page);
    }
    return bytes;
  },
  'the end cut off'({ bytes, random }) {
    return bytes.subarray(0, random(4) === 0 ? random(bytes.length) : bytes.length - 1 - random(bytes.length / 3));
  },
  'a torn meta page'({ bytes, older, random }) {
    const page = random(2) * PAGE;
    const at = page + HEADER + random(120);
    if (random(2) === 0) older.copy(bytes, at, at, page + 168);
    else bytes.fill(0, at, page + 168);
    return bytes;
  },
  'the list of free pages altered'({ bytes, random }) {
    const words = freeWords(bytes);
    for (let n = 1 + random(3); n > 0; n--) {
      const at = words[random(words.length)] as number;
      bytes.writeBigInt64LE(BigInt(2 + random(pagesOf(bytes) - 2)) * (random(4) === 0 ? -1n : 1n), at);
    }
    return bytes;
  },
  'long values altered'({ bytes, random }) {
    const pages = Array.from({ length: pagesOf(bytes) }, (_, page) => page).filter(
      (page) => bytes.readUInt16LE(page * PAGE + 18) === OVERFLOW && bytes.readUInt32LE(page * PAGE) === page,
    );
    for (let n = 1 + random(3); n > 0; n--) {
      const page = pages[random(pages.length)] as number;
      const length = bytes.readUInt32LE(page * PAGE + 20) * PAGE;
      const at = page * PAGE + HEADER + random(length - HEADER);
      if (random(2) === 0) flip(bytes, at, random);
      else bytes.fill(random(256), at, page * PAGE + Math.min(length, at + random(2000)));
    }
    return bytes;
  },
};

/** Damages a file; `random` gives numbers from 0 to 1. */
export function damage(kind: string, file: string, older: string, random: () => number): void {
  const apply = DAMAGES[kind] as (target: Target) => Buffer;
  const target = {
    bytes: readFileSync(file),
    older: readFileSync(older),
    random: (n: number) => Math.floor(random() * n),
  };
  writeFileSync(file, apply(target));
}

function flip(bytes: Buffer, at: number, random: (below: number) => number): void {
  bytes[at] = (bytes[at] as number) ^ (1 << random(8));
}

function pageOf(page: number): [start: number, end: number] {
  return [page * PAGE, (page + 1) * PAGE];
}

function pagesOf(bytes: Buffer): number {
  return Math.floor(bytes.length / PAGE);
}

/** Where the words of the records in the first leaf of the list of free pages stand. */
export function freeWords(bytes: Buffer): number[] {
  const newer = bytes.readBigUInt64LE(152) > bytes.readBigUInt64LE(PAGE + 152) ? 0 : PAGE;
  let page = bytes.readUInt32LE(newer + 48 + 40) * PAGE;
  const nodes = () =>
    Array.from(
      { length: bytes.readUInt16LE(page + 20) / 2 },
      (_, i) => page + HEADER + bytes.readUInt16LE(page + HEADER + 2 * i),
    );
  while (bytes.readUInt16LE(page + 18) !== LEAF) page = bytes.readUInt32LE(nodes()[0] as number) * PAGE;
  return nodes().flatMap((node) => {
    const isLong = (bytes.readUInt16LE(node + 4) & 1) === 1;
    const value = node + 8 + bytes.readUInt16LE(node + 6);
    const at = isLong ? bytes.readUInt32LE(value) * PAGE + HEADER : value;
    return Array.from({ length: bytes.readUInt32LE(node) / 8 - 1 }, (_, word) => at + 8 * (word + 1));
  });
}
