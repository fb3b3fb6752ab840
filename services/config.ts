import { type ChatConfig, readConfig as chatConfig } from '@chatmesh/chat/config';
import { type EdgeConfig, readConfig as edgeConfig } from '@chatmesh/edge/config';
import { EnvReader, readTls, type TlsFiles } from '@chatmesh/mesh';
import { type PresenceConfig, readConfig as presenceConfig } from '@chatmesh/presence/config';
import { type UserConfig, readConfig as userConfig } from '@chatmesh/user/config';

/** The configuration of all services, and of the process that runs some of them. */
export interface MeshConfig {
  readonly user: UserConfig;
  readonly presence: PresenceConfig;
  readonly chat: ChatConfig;
  readonly edge: EdgeConfig;
  /** The process' certificate towards the other services. */
  readonly tls: TlsFiles | undefined;
  readonly adminHost: string;
  readonly adminPort: number;
  readonly logLevel: string;
  /** Where spans go; undefined follows no message. */
  readonly traces: { readonly endpoint: string; readonly ratio: number; readonly serviceName: string } | undefined;
}

/**
 * Reads the variables of every service, started or not: so a misspelt one is noticed wherever it is set.
 *
 * @throws ConfigError naming every problem.
 */
export function readMeshConfig(variables: NodeJS.ProcessEnv): MeshConfig {
  const env = new EnvReader(variables);
  const config = {
    user: userConfig(env),
    presence: presenceConfig(env),
    chat: chatConfig(env),
    edge: edgeConfig(env),
    tls: readTls(env),
    adminHost: env.host('ADMIN_HOST', '127.0.0.1'),
    adminPort: env.port('ADMIN_PORT', 9090),
    logLevel: env.string('LOG_LEVEL', 'info'),
    traces: readTraces(env),
  };
  env.finish();
  return config;
}

const COLLECTOR_URL = {
  accepts: (url: URL) => url.protocol === 'http:' || url.protocol === 'https:',
  expected: 'an http:// or https:// URL',
  example: 'http://collector.example:4318',
};

/** The variables have the names that OpenTelemetry gives them. */
function readTraces(env: EnvReader): MeshConfig['traces'] {
  const endpoint = env.url('OTEL_EXPORTER_OTLP_ENDPOINT', COLLECTOR_URL);
  const share = (text: string) => (Number(text) >= 0 && Number(text) <= 1 ? Number(text) : undefined);
  const ratio = env.parsed('OTEL_TRACES_SAMPLER_ARG', share, { expected: 'from 0 to 1', example: '0.001' }) ?? 0.001;
  const serviceName = env.string('OTEL_SERVICE_NAME', 'chatmesh');
  return endpoint === undefined ? undefined : { endpoint, ratio, serviceName };
}
