import { isBadFrame } from '@chatmesh/edge/domain/bad-frames';
import { expect, test } from '@jest/globals';

test('what cannot be read is a bad frame, whatever it was meant to be', () => {
  expect([isBadFrame('invalid_argument', false), isBadFrame('invalid_argument', true)]).toEqual([true, true]);
});

test.each(['unimplemented', 'not_found', 'unauthenticated', 'permission_denied', 'resource_exhausted'] as const)(
  '%s makes a frame bad that carries no message; to a message it is an answer',
  (kind) => {
    expect([isBadFrame(kind, false), isBadFrame(kind, true)]).toEqual([true, false]);
  },
);

test.each(['unavailable', 'internal', 'deadline_exceeded'] as const)('%s is not the client’s fault', (kind) => {
  expect([isBadFrame(kind, false), isBadFrame(kind, true)]).toEqual([false, false]);
});
