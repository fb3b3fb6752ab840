import type { InitializeHook, LoadHook } from 'node:module';
import type { Mutant } from './mutants.js';

let mutant: Mutant;

export const initialize: InitializeHook<Mutant> = (data) => {
  mutant = data;
};

/** Exchanges the mutant's text in its module. @throws Error when it does not stand there exactly once. */
export const load: LoadHook = async (url, context, nextLoad) => {
  const loaded = await nextLoad(url, context);
  if (!url.endsWith(`/${mutant.module}`)) return loaded;
  const words = mutant.from.split(' ').map((word) => word.replace(/[$()*+.?[\\\]^{|}]/g, '\\$&'));
  const parts = String(loaded.source).split(new RegExp(words.join('\\s+')));
  if (parts.length !== 2) throw new Error(`"${mutant.from}" stands in ${mutant.module} ${parts.length - 1} times`);
  return { ...loaded, source: parts.join(mutant.to) };
};
