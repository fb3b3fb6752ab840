import { MeshError } from '@chatmesh/mesh';

/** E.164: a plus sign and 7 to 15 digits. */
const CONTACT_NUMBER = /^\+[1-9][0-9]{6,14}$/;

/**
 * `count` contact numbers in a row.
 *
 * @throws MeshError `invalid_argument` when `first` is no E.164 number, or when a number in the row is not.
 */
export function consecutiveNumbers(first: string, count: number): string[] {
  const digits = BigInt(CONTACT_NUMBER.test(first) ? first.slice(1) : 0);
  const numbers = Array.from({ length: count }, (_, i) => `+${digits + BigInt(i)}`);
  const wrong = [first, ...numbers].find((number) => !CONTACT_NUMBER.test(number));
  if (wrong !== undefined) throw new MeshError('invalid_argument', `${wrong} is no contact number in E.164`);
  return numbers;
}
