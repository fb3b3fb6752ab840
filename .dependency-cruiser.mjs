// Import directions: gen <- packages/mesh <- services/*. A service reaches another one by its gRPC contract alone, a
// domain knows no I/O, and a driver has one home. CONTRIBUTING.md says why; test/unit/import-directions.test.ts plants a
// violation of every rule. A workspace is written as its folder and as its name, for it may not have been built yet.

const gen = ['^gen/', '^@chatmesh/gen(/|$)'];
const mesh = ['^packages/mesh/', '^@chatmesh/mesh(/|$)'];
const sdk = ['^packages/sdk/', '^@chatmesh/sdk(/|$)'];
const cli = ['^packages/cli/', '^@chatmesh/cli(/|$)'];
const services = ['^services/', '^@chatmesh/(user|presence|chat|edge)(/|$)'];
const proofs = ['^(test|bench|scripts)/'];

/** The one file, or the one folder, that may import each driver. */
const drivers = {
  lmdb: '^packages/mesh/lmdb\\.ts$',
  ioredis: '^packages/mesh/redis\\.ts$',
  'cassandra-driver': '^packages/mesh/cassandra\\.ts$',
  'pulsar-client': '^packages/mesh/pulsar\\.ts$',
  '@opentelemetry': '^packages/mesh/otlp\\.ts$',
  pg: '^packages/mesh/sql\\.ts$',
  '@electric-sql/pglite': '^services/user/stores/[^/]+\\.ts$',
};

/** @param {string} name of a package, matched wherever it is installed, and where it is not */
const driver = (name) => [`^${name}(/|$)`, `(^|/)node_modules/${name}/`];

/** @param {string} name @param {string} comment @param {object} from @param {object} to */
const forbid = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    forbid(
      'gen-stands-alone',
      'Generated code imports the protobuf runtime only.',
      { path: '^gen/' },
      { pathNot: ['^gen/', ...driver('@bufbuild/protobuf')] },
    ),
    forbid(
      'mesh-imports-gen-only',
      'What every service needs and no service owns: of this house, packages/mesh imports gen only.',
      { path: '^packages/mesh/' },
      { path: [...sdk, ...cli, ...services, ...proofs] },
    ),
    forbid(
      'sdk-imports-gen-only',
      'The SDK runs at the user, in browsers too: of this house, it imports gen only.',
      { path: '^packages/sdk/' },
      { path: [...mesh, ...cli, ...services, ...proofs] },
    ),
    forbid(
      'cli-imports-no-service',
      'The command line talks to a running mesh: it imports gen, mesh and sdk.',
      { path: '^packages/cli/' },
      { path: [...services, ...proofs] },
    ),
    forbid(
      'services-import-gen-and-mesh-only',
      'Of this house, a service imports itself, gen and packages/mesh.',
      { path: '^services/' },
      { path: [...sdk, ...cli, ...proofs] },
    ),
    forbid(
      'services-never-import-each-other',
      'A service calls another one over gRPC. Only what lies beside them in services/ imports all four: it starts and prepares them.',
      { path: '^services/([^/]+)/' },
      { path: services, pathNot: '^services/$1/' },
    ),
    forbid(
      'domain-without-io',
      "A domain imports itself, generated messages and the mesh's errors; hashing is all that it takes from Node.",
      { path: '^services/([^/]+)/domain/' },
      {
        pathNot: [
          '^services/$1/domain/',
          ...gen,
          ...driver('@bufbuild/protobuf'),
          '^packages/mesh/(dist/)?(index|errors)\\.',
          '^@chatmesh/mesh(/errors)?$',
          '^(node:)?crypto$',
        ],
      },
    ),
    ...Object.entries(drivers).map(([name, home]) =>
      forbid(
        `driver-${name.replace(/^@|\/.*$/g, '')}`,
        `${name} is imported by its own file only, so that it can be replaced there.`,
        { path: '^(gen|packages|services)/', pathNot: home },
        { path: driver(name) },
      ),
    ),
    {
      name: 'driver-in-one-file',
      comment: 'A driver is imported by one file; a second one would spread what only the first should know.',
      severity: 'error',
      module: { path: Object.keys(drivers).flatMap(driver), numberOfDependentsMoreThan: 1 },
      from: {},
    },
  ],
  options: {
    parser: 'swc',
    // Types count: who imports another service's types depends on that service.
    tsPreCompilationDeps: true,
    doNotFollow: { path: ['node_modules', '^(gen|packages/[^/]+|services/[^/]+|services)/dist/'] },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
};
