// With `node --import`: the packages that MISSING_PACKAGES names, with commas, look as if they were not installed.
import module, { register } from 'node:module';

const missing = process.env.MISSING_PACKAGES.split(',');

const hooks = `
  const missing = ${JSON.stringify(missing)};
  export async function resolve(specifier, context, next) {
    if (!missing.includes(specifier)) return next(specifier, context);
    throw Object.assign(new Error("Cannot find package '" + specifier + "'"), { code: 'ERR_MODULE_NOT_FOUND' });
  }
`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

// What is required and not imported goes past the hooks.
const resolveFilename = module._resolveFilename;
module._resolveFilename = (request, ...rest) => {
  if (!missing.includes(request)) return resolveFilename(request, ...rest);
  throw Object.assign(new Error(`Cannot find module '${request}'`), { code: 'MODULE_NOT_FOUND' });
};
