import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { type LogEvent, LogEventSchema } from '@chatmesh/gen/chat/v1/log';
import {
  type RouteRequest,
  type RouteResponse,
  type RouterService,
  SubmitResultSchema,
} from '@chatmesh/gen/chat/v1/router';
import { LogEventWire, MessagePayloadWire } from '@chatmesh/gen/wire/chat/v1/log';
import { SubmitResultWire } from '@chatmesh/gen/wire/chat/v1/router';
import { type BidiCall, type MeshClock, MeshError, type ServiceImpl } from '@chatmesh/mesh';
import { confirmableId, confirmationOf } from './domain/events.js';
import { isUuid, UNCLAIMED_DEVICE } from './domain/ids.js';
import { placeOf } from './domain/session-order.js';
import type { CachedDirectory } from './routing/directory.js';
import { EdgeLink } from './routing/edge-link.js';
import type { Acceptance, Ingress, Submission } from './routing/ingress.js';
import type { Owner } from './routing/owner.js';
import { explainMessage } from './rpc/explain-message.js';
import { stateOf } from './rpc/message-state.js';
import type { Attempts } from './stores/attempts.js';
import type { InboxStore } from './stores/inbox-store.js';
import type { MessageLog } from './stores/message-log.js';
import { DAMAGED, type StatusAnswer, type StatusRecord, type StatusStore } from './stores/status-store.js';

export interface RpcDeps {
  readonly clock: MeshClock;
  readonly ingress: Ingress;
  readonly owner: Owner;
  readonly directory: CachedDirectory;
  readonly log: MessageLog;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
  readonly attempts: Attempts | undefined;
}

const DEFAULT_INBOX_LIMIT = 100;

/** The stream between an edge and this router. */
export function routerRpc({ clock, ingress, owner, directory, log }: RpcDeps): ServiceImpl<typeof RouterService> {
  return {
    route(call: BidiCall<RouteRequest, RouteResponse>) {
      let link: EdgeLink | undefined;
      let confirmed: Promise<void> = Promise.resolve();
      call.onMessage((request) => {
        if (!link) {
          if (!request.hello || !isUuid(request.hello.edgeId)) {
            call.end(new MeshError('invalid_argument', 'the first frame must say hello with the edge_id'));
            return;
          }
          link = new EdgeLink(request.hello.edgeId, call, clock);
          link.welcome();
          owner.addLink(link);
        }
        const edge = link;
        clock.hear(Number(request.notBeforeMs));
        if (request.confirmations.length > 0) {
          const durable = owner.confirm(edge, request.confirmations);
          // What follows one that did not become durable is not reported either: the edge forgets everything up to a number.
          const { sequence } = request;
          const ids = request.confirmations.reduce((sum, { ids }) => sum + ids.length, 0);
          confirmed = Promise.all([confirmed, durable]).then(() => edge.recordedThrough(sequence, ids));
          // It does not where the router stops: the edge hands it to another one.
          confirmed.catch(() => {});
        }
        for (const { session, attached } of request.attachResults) {
          const device = edge.sessions.get(session);
          device?.recipient.attached(device, edge, session, attached);
        }
        for (const session of request.closedSessions) {
          const device = edge.sessions.get(session);
          device?.recipient.detach(device, edge, session);
          edge.release(session);
        }
        if (request.openedSessions.length > 0) {
          const events = request.openedSessions.map(({ session, userId, deviceId, ...opened }) => {
            directory.addDevice(userId, deviceId);
            const { order, isNew } = placeOf(Number(opened.order), opened.ageMs, clock.now());
            return create(LogEventSchema, {
              userId,
              kind: {
                case: 'session',
                value: { edgeId: edge.edgeId, session, deviceId, order: BigInt(order), isNew },
              },
            });
          });
          // Where the log refuses, the edge opens the sessions again with its next heartbeat.
          log.publish(events).catch(() => {});
        }
        if (request.submits.length > 0) {
          ingress.submit(request.submits, ({ ref }, result) => edge.answer(submitResult(ref, result)));
        }
      });
      call.onClose(() => {
        if (link) owner.removeLink(link);
      });
    },
  };
}

/** Calls of other backends and of the edges' unary endpoints. */
export function internalRpc(deps: RpcDeps): ServiceImpl<typeof InternalChatService> {
  const { ingress, owner, directory, log, inbox, attempts } = deps;
  return {
    explainMessage: (request) => explainMessage(deps, request),

    async sendMessage({ message, senderDeviceId }) {
      const accepted = await accept(ingress, submissionOf(message as NonNullable<typeof message>, senderDeviceId));
      return {
        accepted: {
          clientMessageId: message?.clientMessageId ?? '',
          serverMessageId: accepted.serverMessageId,
          timestamp: timestampFromMs(accepted.acceptedAtMs),
          deduplicated: accepted.deduplicated,
        },
      };
    },

    async confirm({ userId, deviceId, receipts, eventIds }) {
      const ids = receipts.flatMap((receipt) => receipt.serverMessageIds);
      const records = await owner.recordsForClient(ids);
      // What a damaged record said is not known: the owner looks for the message itself.
      const concerns = (record: StatusAnswer) =>
        record === DAMAGED || record?.recipientId === userId || record?.senderId === userId;
      const notFound = ids.filter((_, i) => !concerns(records[i]));
      const unknown = new Set(notFound);
      const events: LogEvent[] = [];
      const add = (status: MessageStatus, confirmedIds: string[]) => {
        if (confirmedIds.length > 0) events.push(confirmationOf(userId, { deviceId, status, ids: confirmedIds }));
      };
      for (const { status, serverMessageIds } of receipts) {
        add(
          status,
          serverMessageIds.filter((id) => !unknown.has(id)),
        );
      }
      add(MessageStatus.UNSPECIFIED, eventIds);
      if (events.length > 0) await owner.confirmThroughLog(userId, events);
      return { notFound };
    },

    async getMessageStatus({ senderId, serverMessageIds }) {
      const records = await owner.recordsForClient(serverMessageIds);
      return {
        states: records.filter((r): r is StatusRecord => r !== DAMAGED && r?.senderId === senderId).map(stateOf),
      };
    },

    async announceDevices({ devices }) {
      if (devices.length > 0) {
        await log.publish(
          devices.map(({ userId, deviceId }) =>
            create(LogEventSchema, { userId, kind: { case: 'device', value: { deviceId } } }),
          ),
        );
        for (const { userId, deviceId } of devices) directory.addDevice(userId, deviceId);
        // Another router that accepts for one of these users learns from this that it has to ask the directory again.
        await Promise.all(devices.map(({ userId }) => attempts?.begin(userId, 0, [])));
      }
      return {};
    },

    async listInbox({ userId, deviceId, limit }) {
      const user = directory.peek(userId) ?? (await directory.find(userId));
      const devices = deviceId !== '' ? [deviceId] : [...(user?.deviceIds ?? []), UNCLAIMED_DEVICE];
      const entries = [];
      for (const id of devices) {
        for (const row of await inbox.page(userId, id, undefined, limit || DEFAULT_INBOX_LIMIT)) {
          const event = LogEventWire.decode(row.payload);
          const message = event.kind.case === 'message' ? event.kind.value : undefined;
          entries.push({
            deviceId: id,
            kind: message ? (message.copy ? 'copy' : 'message') : 'receipt',
            id: confirmableId(event) ?? '',
            senderId: message?.senderId ?? '',
            acceptedAtMs: message?.acceptedAtMs ?? (event.kind.case === 'receipt' ? event.kind.value.atMs : 0n),
          });
        }
      }
      return { entries };
    },
  };
}

function accept(ingress: Ingress, submission: Submission): Promise<Acceptance> {
  return new Promise((resolve, reject) => {
    ingress.submit([submission], (_, result) => (result instanceof MeshError ? reject(result) : resolve(result)));
  });
}

function submissionOf(
  message: NonNullable<Parameters<ServiceImpl<typeof InternalChatService>['sendMessage']>[0]['message']>,
  senderDeviceId: string,
): Submission {
  const { target, payload } = message;
  return {
    senderId: message.senderId,
    senderDeviceId,
    receiverId: target.case === 'receiverId' ? target.value : '',
    groupId: target.case === 'groupId' ? target.value : '',
    clientMessageId: message.clientMessageId,
    payload: MessagePayloadWire.encode({ ...MessagePayloadWire.create(), payload }),
    sealed: payload.case === 'sealed',
    traceparent: '',
    receivedAtMs: 0n,
  };
}

function submitResult(ref: number, result: Acceptance | MeshError): RouteResponse['submitResults'][number] {
  const answer = SubmitResultWire.create();
  answer.ref = ref;
  if (result instanceof MeshError) {
    answer.refusal = create(SubmitResultSchema, {
      refusal: { code: result.kind, message: result.message, retryAfterMs: result.retryAfterMs ?? 0 },
    }).refusal as NonNullable<typeof answer.refusal>;
    return answer;
  }
  answer.acceptedAtMs = BigInt(result.acceptedAtMs);
  answer.serverMessageId = result.serverMessageId;
  answer.deduplicated = result.deduplicated;
  if (result.receipt) answer.receiptEvent = result.receipt as Uint8Array<ArrayBuffer>;
  return answer;
}
