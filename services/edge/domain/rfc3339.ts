const DATE_TIME =
  /^(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))$/;
const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;

/**
 * Whether `text` is a `date-time` of RFC 3339, section 5.6: `t` and `z` are as good as `T` and `Z`, a fraction has any number of
 * digits, and second 60 is there at the end of a month in UTC, where leap seconds are (section 5.7).
 */
export function isRfc3339(text: string): boolean {
  const match = DATE_TIME.exec(text);
  if (!match) return false;
  const [, year, month, day, hour, minute, second, sign, offsetHours, offsetMinutes] = match as string[];
  if (Number(day) > 28 && Number(day) > daysIn(Number(year), Number(month))) return false;
  if (second !== '60') return true;
  const offset = (Number(offsetHours ?? 0) * 60 + Number(offsetMinutes ?? 0)) * (sign === '-' ? -1 : 1);
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  // What follows a leap second is the first moment of a month.
  const next = date.getTime() + (Number(hour) * 60 + Number(minute) + 1 - offset) * MINUTE_MS;
  return next % DAY_MS === 0 && new Date(next).getUTCDate() === 1;
}

function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}
