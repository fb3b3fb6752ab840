import { randomBytes } from 'node:crypto';
import { HalfSipHash } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

/** HalfSipHash of 16 bytes with a result of 32 bits, as the paper describes it. */
function described(rounds: { perBlock: number; atTheEnd: number }, key: Buffer, input: Buffer): number {
  const rotated = (x: number, by: number) => ((x << by) | (x >>> (32 - by))) >>> 0;
  const [k0, k1] = [key.readUInt32LE(0), key.readUInt32LE(4)];
  let [v0, v1, v2, v3] = [k0, k1, (k0 ^ 0x6c796765) >>> 0, (k1 ^ 0x74656462) >>> 0];
  const round = () => {
    v0 = (v0 + v1) >>> 0;
    v2 = (v2 + v3) >>> 0;
    v1 = (rotated(v1, 5) ^ v0) >>> 0;
    v3 = (rotated(v3, 8) ^ v2) >>> 0;
    v0 = rotated(v0, 16);
    v0 = (v0 + v3) >>> 0;
    v2 = (v2 + v1) >>> 0;
    v3 = (rotated(v3, 7) ^ v0) >>> 0;
    v1 = (rotated(v1, 13) ^ v2) >>> 0;
    v2 = rotated(v2, 16);
  };
  const length = input.length << 24;
  for (const block of [0, 4, 8, 12].map((at) => input.readUInt32LE(at)).concat(length >>> 0)) {
    v3 = (v3 ^ block) >>> 0;
    for (let i = 0; i < rounds.perBlock; i++) round();
    v0 = (v0 ^ block) >>> 0;
  }
  v2 = (v2 ^ 0xff) >>> 0;
  for (let i = 0; i < rounds.atTheEnd; i++) round();
  return (v1 ^ v3) >>> 0;
}

describe('HalfSipHash', () => {
  test('the description gives what the reference publishes for 2-4: of bytes 0 to 15 under the key of bytes 0 to 7', () => {
    const bytes = Buffer.from(Array.from({ length: 16 }, (_, i) => i));
    const result = Buffer.alloc(4);
    result.writeUInt32LE(described({ perBlock: 2, atTheEnd: 4 }, bytes.subarray(0, 8), bytes));
    expect(result.toString('hex')).toBe('d9b5ac84');
  });

  test('1-3 gives what the description says', () => {
    for (let n = 0; n < 1_000; n++) {
      const [key, input] = [randomBytes(8), randomBytes(16)];
      const [a, b, c, d] = [0, 4, 8, 12].map((at) => input.readUInt32LE(at)) as [number, number, number, number];
      const expected = described({ perBlock: 1, atTheEnd: 3 }, key, input);
      expect([key.toString('hex'), input.toString('hex'), new HalfSipHash(key).of(a, b, c, d) >>> 0]).toEqual([
        key.toString('hex'),
        input.toString('hex'),
        expected,
      ]);
    }
  });
});
