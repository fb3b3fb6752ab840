/**
 * The part of the package pulsar-client that the mesh uses. It is declared here because npm leaves an optional package out where
 * its binary cannot be had, and the build must not need it. scripts/pulsar-api/agreement.ts holds this file against the
 * package's own types.
 */
export interface PulsarApi {
  readonly Client: new (config: ClientConfig) => Client;
  readonly AuthenticationToken: new (params: { token: string }) => Authentication;
  readonly MessageId: { earliest(): MessageId; latest(): MessageId };
}

/** Opaque: it is made here and read by the client. */
export type Authentication = object;

export interface ClientConfig {
  serviceUrl: string;
  authentication?: Authentication;
  operationTimeoutSeconds?: number;
  connectionTimeoutMs?: number;
  tlsTrustCertsFilePath?: string;
  tlsValidateHostname?: boolean;
  log?: (level: number, file: string, line: number, message: string) => void;
}

export interface Client {
  createProducer(config: ProducerConfig): Promise<Producer>;
  subscribe(config: ConsumerConfig): Promise<Consumer>;
  createReader(config: { topic: string; startMessageId: MessageId }): Promise<Reader>;
  getPartitionsForTopic(topic: string): Promise<string[]>;
  close(): Promise<null>;
}

export interface ProducerConfig {
  topic: string;
  sendTimeoutMs?: number;
  batchingEnabled?: boolean;
  batchingMaxPublishDelayMs?: number;
  batchingMaxMessages?: number;
  maxPendingMessages?: number;
  blockIfQueueFull?: boolean;
}

export interface Producer {
  send(message: { data: Buffer; properties?: { [key: string]: string } }): Promise<MessageId>;
  isConnected(): boolean;
  close(): Promise<null>;
}

export interface ConsumerConfig {
  topic: string;
  subscription: string;
  subscriptionType?: 'Shared' | 'Failover';
  consumerName?: string;
  subscriptionInitialPosition?: 'Earliest';
  batchIndexAckEnabled?: boolean;
  nAckRedeliverTimeoutMs?: number;
  receiverQueueSize?: number;
  receiverQueueSizeAcrossPartitions?: number;
  batchReceivePolicy?: { maxNumMessages: number; maxNumBytes: number; timeoutMs: number };
}

export interface Consumer {
  receive(): Promise<Message>;
  batchReceive(): Promise<Message[]>;
  acknowledge(message: Message): Promise<null>;
  acknowledgeId(id: MessageId): Promise<null>;
  negativeAcknowledgeId(id: MessageId): void;
  isConnected(): boolean;
  close(): Promise<null>;
}

export interface Reader {
  readNext(timeoutMs?: number): Promise<Message>;
  close(): Promise<null>;
}

export interface Message {
  getData(): Buffer;
  getMessageId(): MessageId;
  getProperties(): { [key: string]: string };
}

export interface MessageId {
  serialize(): Buffer;
  /** `(ledger,entry,partition,index)` */
  toString(): string;
}
