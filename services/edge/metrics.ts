import type { DescMethod } from '@bufbuild/protobuf';
import { type MeshError, type Metrics, toMeshError } from '@chatmesh/mesh';
import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import type { Listeners } from './http/listeners.js';
import type { WebSocketEndpoint } from './http/websocket.js';
import type { SessionTable } from './sessions/session-table.js';

const BUCKETS_S = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

interface EdgeParts {
  readonly sessions: SessionTable;
  readonly websocket: WebSocketEndpoint;
  readonly listeners: Listeners;
}

/** What an edge tells of itself. Its counters are plain numbers, which are read when somebody asks. */
export function exposeEdge(metrics: Metrics, { sessions, websocket, listeners }: EdgeParts): void {
  const answered = metrics.histogram({
    name: 'chatmesh_send_seconds',
    help: 'From the arrival of a message of a session at the edge to the answer, which is sent when it is durable.',
    buckets: BUCKETS_S,
  });
  sessions.onAnswered = (seconds) => answered.observe(seconds);
  metrics.gauge({ name: 'chatmesh_sessions', help: 'Open sessions on this edge.' }, () => sessions.size);
  metrics.gauge(
    {
      name: 'chatmesh_sessions_paused',
      help: 'Sessions that are not read: their clients do not take what they are owed, or too much of theirs waits.',
    },
    () => sessions.paused,
  );
  metrics.gauge({ name: 'chatmesh_connections', help: 'Open connections to the ports of this edge.' }, () =>
    listeners.connections(),
  );
  metrics.counter(
    {
      name: 'chatmesh_connections_refused_total',
      help: 'Connections closed as soon as they came, because their address had as many as it may have.',
    },
    () => listeners.refusedConnections,
  );
  metrics.gauge(
    { name: 'chatmesh_upgrades_pending', help: 'Upgrades whose token is being checked.' },
    () => websocket.pending,
  );
  metrics.counter(
    {
      name: 'chatmesh_upgrades_total',
      help: 'Upgrades to a WebSocket, by the HTTP status that they were answered with; 101 is a connection.',
      labelNames: ['status'],
    },
    () => [...websocket.answers].map(([status, count]) => [{ status: String(status) }, count] as const),
  );
  const { counts } = sessions;
  metrics.counter({ name: 'chatmesh_sessions_opened_total', help: 'Sessions that began.' }, () => counts.opened);
  metrics.counter(
    {
      name: 'chatmesh_sessions_closed_total',
      help: 'Sessions that this edge closed, by close code; those that the client ended are not among them.',
      labelNames: ['code'],
    },
    () => [...sessions.closed].map(([code, count]) => [{ code: String(code) }, count] as const),
  );
  metrics.counter(
    { name: 'chatmesh_frames_received_total', help: 'Frames of clients, by kind.', labelNames: ['kind'] },
    () => [
      [{ kind: 'send' }, counts.sends],
      [{ kind: 'confirm' }, counts.confirmations],
      [{ kind: 'other' }, counts.otherFrames],
    ],
  );
  metrics.counter(
    { name: 'chatmesh_frames_refused_total', help: 'Frames of clients that were answered with an error by the edge.' },
    () => counts.refusals,
  );
  metrics.counter(
    { name: 'chatmesh_events_transmitted_total', help: 'Messages and receipts written to sessions, repeats included.' },
    () => counts.events,
  );
  metrics.gauge(
    {
      name: 'chatmesh_sends_in_flight',
      help: 'Messages that this edge has handed to routers and that have no answer.',
    },
    () => sessions.inFlight,
  );
  metrics.gauge(
    {
      name: 'chatmesh_routers',
      help: 'Routers of this edge, by whether they answer, and refuse whatever they are asked.',
      labelNames: ['state'],
    },
    () => {
      const { connected, failing, unreachable } = sessions.routers.reach;
      return [
        [{ state: 'connected' }, connected],
        [{ state: 'failing' }, failing],
        [{ state: 'unreachable' }, unreachable],
      ];
    },
  );
}

export interface RpcMetrics {
  /** Sees every call that reaches its handler. */
  readonly interceptor: Interceptor;
  /** To be told of the others. */
  readonly refused: (method: DescMethod, error: MeshError) => void;
}

/** Rate, errors and duration of the public calls; of streams only how many were opened, and how that went. */
export function rpcMetrics(metrics: Metrics): RpcMetrics {
  const requests = metrics.counter({
    name: 'chatmesh_edge_requests_total',
    help: 'Calls of the public services by how they ended; a stream counts when it is open.',
    labelNames: ['service', 'method', 'code'],
  });
  const seconds = metrics.histogram({
    name: 'chatmesh_edge_request_seconds',
    help: 'From the arrival of a unary call of a public service to its answer.',
    labelNames: ['service', 'method'],
    buckets: BUCKETS_S,
  });
  const interceptor: Interceptor = (next) => async (request) => {
    const startedAtMs = performance.now();
    const labels = { service: request.service.typeName, method: request.method.name };
    let code = 'ok';
    try {
      return await next(request);
    } catch (error) {
      code = error instanceof ConnectError ? nameOf(error.code) : toMeshError(error).kind;
      throw error;
    } finally {
      requests.inc({ ...labels, code });
      if (!request.stream) seconds.labels(labels).observe((performance.now() - startedAtMs) / 1000);
    }
  };
  const refused = ({ parent, name }: DescMethod, { kind }: MeshError) =>
    requests.inc({ service: parent.typeName, method: name, code: kind });
  return { interceptor, refused };
}

/** InvalidArgument as invalid_argument. */
function nameOf(code: Code): string {
  return Code[code].replace(/(?<=[a-z])[A-Z]/g, '_$&').toLowerCase();
}
