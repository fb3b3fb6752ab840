// Loaded before the simulation, with the name of a mutant in MUTANT: its module is loaded with the fault in it.
import { register } from 'node:module';
import { MUTANTS } from './mutants.js';

const mutant = MUTANTS.find(({ name }) => name === process.env.MUTANT);
if (!mutant) throw new Error(`no mutant is called "${process.env.MUTANT}"`);
register(new URL('./mutate-hooks.js', import.meta.url), { data: mutant });
