const V4_MAPPED = '00000000000000000000ffff';

/**
 * An IP address as 32 hexadecimal digits, so that two spellings of one are equal; an IPv4 address as the IPv6 address that it is mapped
 * to. Takes what Node gives as `remoteAddress`.
 */
export function hexOf(address: string): string {
  const [text] = address.split('%') as [string];
  const dotted = text.lastIndexOf(':') + 1;
  if (!text.includes('.')) return expand(text);
  const v4 = hexOfV4(text.slice(dotted));
  return dotted === 0 ? V4_MAPPED + v4 : expand(`${text.slice(0, dotted)}${v4.slice(0, 4)}:${v4.slice(4)}`);
}

/** Whose address it is, as far as limits are concerned: an IPv4 address, or the /64 that an IPv6 address lies in. */
export function networkOf(address: string): string {
  const hex = hexOf(address);
  return hex.startsWith(V4_MAPPED) ? hex : hex.slice(0, 16);
}

function hexOfV4(text: string): string {
  return text
    .split('.')
    .map((byte) => Number(byte).toString(16).padStart(2, '0'))
    .join('');
}

function expand(text: string): string {
  const [head = '', tail] = text.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':').map((group) => group.padStart(4, '0')));
  const [before, after] = [groups(head), tail === undefined ? [] : groups(tail)];
  return [...before, ...Array<string>(8 - before.length - after.length).fill('0000'), ...after].join('').toLowerCase();
}
