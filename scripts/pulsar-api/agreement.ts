import type * as Real from 'pulsar-client';
import type { ClientConfig, ConsumerConfig, ProducerConfig, PulsarApi } from '../../packages/mesh/pulsar-api.js';

/** Compiles only where the package pulsar-client has, with these types, what the mesh uses of it. */
export const agreement = (real: typeof Real): PulsarApi => real;

/** Compilers compare parameters of methods loosely, so each setting is looked at by itself. */
type Known<Ours, Theirs> = Ours extends { [K in keyof Ours]?: K extends keyof Theirs ? Theirs[K] : never }
  ? true
  : never;
export const settings: readonly [
  Known<ClientConfig, Real.ClientConfigBase & { serviceUrl: string }>,
  Known<ProducerConfig, Real.ProducerConfig>,
  Known<ConsumerConfig, Real.ConsumerConfig>,
] = [true, true, true];
