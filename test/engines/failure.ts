import { MeshError } from '@chatmesh/mesh';
import { expect } from '@jest/globals';

/** The error of the mesh with which something has to end. */
export async function failure(work: Promise<unknown>): Promise<MeshError> {
  const error = await work.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(MeshError);
  return error as MeshError;
}
