import type { DescMethod, DescService } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  AcknowledgeRequestSchema,
  ChatService,
  GetStatusRequestSchema,
  SendRequestSchema,
} from '@chatmesh/gen/chat/v1/chat';
import type { ClientFrame, ServerFrame } from '@chatmesh/gen/chat/v1/frames';
import { ClientFrameSchema } from '@chatmesh/gen/chat/v1/frames';
import type { SubmitResult } from '@chatmesh/gen/chat/v1/router';
import { PresenceService } from '@chatmesh/gen/presence/v1/presence';
import { AuthService } from '@chatmesh/gen/user/v1/auth';
import { ContactService } from '@chatmesh/gen/user/v1/contact';
import { GroupService } from '@chatmesh/gen/user/v1/group';
import { KeyService } from '@chatmesh/gen/user/v1/key';
import { SettingsService } from '@chatmesh/gen/user/v1/settings';
import { UserService } from '@chatmesh/gen/user/v1/user';
import { MeshError, toMeshError, validate } from '@chatmesh/mesh';
import { ConnectError, type ConnectRouter, type HandlerContext } from '@connectrpc/connect';
import type { Admission } from './auth/admission.js';
import type { TokenVerifier } from './auth/token-verifier.js';
import { CALLER, TERMINATE } from './http/calls.js';
import { connectError } from './http/connect-error.js';
import { actionOf, StreamSink, sendActionOf } from './http/stream.js';
import type { Session } from './sessions/session.js';
import { refusalError, type SessionTable, submitOf } from './sessions/session-table.js';

/** Their methods answer `unimplemented`, whoever asks, until the services behind them arrive. */
const TO_COME = [
  AuthService,
  UserService,
  ContactService,
  SettingsService,
  GroupService,
  KeyService,
  PresenceService,
] as const;

/** What clients may call. */
export const PUBLIC_SERVICES: readonly DescService[] = [ChatService, ...TO_COME];

/** Whether only a caller with a token may call a method. */
export function needsToken(method: DescMethod): boolean {
  return method.parent.typeName === ChatService.typeName;
}

export interface RpcDeps {
  readonly admission: Admission;
  readonly verifier: TokenVerifier;
  readonly sessions: SessionTable;
}

/** The public services over Connect, gRPC and gRPC-Web. */
export function routes(router: ConnectRouter, deps: RpcDeps): void {
  const { sessions } = deps;

  router.service(ChatService, {
    async *connect(requests, context) {
      const { session, sink } = await open(deps, context);
      void readFrames(deps, session, sink, requests).catch((error) =>
        // What cannot be decoded is told in the library's words: it is the client's fault, not an internal error.
        sessions.close(session, 1008, error instanceof ConnectError ? error.rawMessage : toMeshError(error).message),
      );
      for await (const frame of serve(deps, session, sink, context)) yield { frame };
    },

    async *receive(_request, context) {
      const { session, sink } = await open(deps, context);
      for await (const frame of serve(deps, session, sink, context)) yield { frame };
    },

    send: unary(async (request, context) => {
      validate(SendRequestSchema, request);
      const caller = context.values.get(CALLER);
      const action = sendActionOf(request.message as NonNullable<typeof request.message>);
      if (action.senderId !== caller.userId)
        throw new MeshError('permission_denied', 'sender_id is not the user of the token');
      const result = await new Promise<SubmitResult>((resolve, reject) => {
        sessions.submit(submitOf(action, caller.deviceId), (answer) => {
          if (answer instanceof MeshError) reject(answer);
          else if (answer.refusal) reject(refusalError(answer.refusal));
          else resolve(answer);
        });
      });
      const { serverMessageId, deduplicated, acceptedAtMs } = result;
      return {
        accepted: {
          serverMessageId,
          deduplicated,
          clientMessageId: action.clientMessageId,
          timestamp: timestampFromMs(Number(acceptedAtMs)),
        },
      };
    }),

    acknowledge: unary(async (request, context) => {
      validate(AcknowledgeRequestSchema, request);
      if (request.receipts.length === 0 && request.eventIds.length === 0)
        throw new MeshError('invalid_argument', 'nothing to acknowledge');
      const { userId, deviceId } = context.values.get(CALLER);
      const { receipts, eventIds } = request;
      const { notFound } = await sessions.routers.call(userId, (chat) =>
        chat.confirm({ userId, deviceId, receipts, eventIds }),
      );
      return { notFound };
    }),

    getStatus: unary(async (request, context) => {
      validate(GetStatusRequestSchema, request);
      const { userId } = context.values.get(CALLER);
      const { serverMessageIds } = request;
      const { states } = await sessions.routers.call(userId, (chat) =>
        chat.getMessageStatus({ senderId: userId, serverMessageIds }),
      );
      return { states };
    }),
  });

  for (const service of TO_COME) router.service(service as typeof UserService, {});
}

async function open(deps: RpcDeps, context: HandlerContext): Promise<{ session: Session; sink: StreamSink }> {
  try {
    const identity = await deps.admission.admitSession(context.values.get(CALLER), deps.sessions);
    const sink = new StreamSink(identity.deviceId, context.values.get(TERMINATE));
    return { session: deps.sessions.open(identity, sink), sink };
  } catch (error) {
    throw connectError(error);
  }
}

async function* serve(
  deps: RpcDeps,
  session: Session,
  sink: StreamSink,
  context: HandlerContext,
): AsyncGenerator<ServerFrame> {
  try {
    for await (const frame of sink.frames(context.signal)) {
      // Taking a frame is the sign of life of a stream that only receives.
      deps.sessions.heard(session);
      deps.sessions.taken(session);
      yield frame;
    }
  } catch (error) {
    if (!context.signal.aborted) throw connectError(error);
  } finally {
    deps.sessions.ended(session);
  }
}

async function readFrames(
  deps: RpcDeps,
  session: Session,
  sink: StreamSink,
  requests: AsyncIterable<{ frame?: ClientFrame | undefined }>,
): Promise<void> {
  for await (const { frame } of requests) {
    if (session.closed) return;
    deps.sessions.heard(session);
    try {
      if (!frame) throw new MeshError('invalid_argument', 'the frame is empty');
      validate(ClientFrameSchema, frame);
      deps.sessions.act(session, actionOf(frame));
    } catch (error) {
      const id = frame?.frame.case === 'send' ? frame.frame.value.clientMessageId : '';
      deps.sessions.refuse(session, toMeshError(error), id);
    }
    await sink.readable();
  }
}

/** A unary method whose errors become Connect errors. */
function unary<I, O>(
  handler: (request: I, context: HandlerContext) => Promise<O>,
): (request: I, context: HandlerContext) => Promise<O> {
  return async (request, context) => {
    try {
      return await handler(request, context);
    } catch (error) {
      throw connectError(error);
    }
  };
}
