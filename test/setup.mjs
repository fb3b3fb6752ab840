// Jest runs each test file in a realm of its own, where an error that Node's modules throw is no `instanceof Error`.
// Outside of jest there is one realm only; so that the code behaves here as it does there, `Error` knows them all.
import { isNativeError } from 'node:util/types';

const ordinary = Function.prototype[Symbol.hasInstance];
Object.defineProperty(Error, Symbol.hasInstance, {
  value(value) {
    return ordinary.call(this, value) || (this === Error && isNativeError(value));
  },
});
