import type { DescService } from '@bufbuild/protobuf';
import { addressesOf, type Client, createClient, isName, MeshError } from '@chatmesh/mesh';
import { CommandError, exitCodes, meshFailure } from './failure.js';
import { operatorTls } from './operator.js';
import type { Terminal } from './terminal.js';

/** Which routers a command asks. */
export interface RouterOptions {
  /** host:port, or dns:///name:port for every address of a name. */
  chatAddresses: string[];
}

type Ask<S extends DescService, T> = (router: Client<S>) => Promise<T>;

const OPTION = '--chat-addresses';

/** Calls a service of the routers on the operator's behalf. Every failure is a CommandError for the terminal. */
export class Routers<S extends DescService> {
  readonly #terminal: Terminal;
  readonly #service: S;
  readonly #options: RouterOptions;

  constructor(terminal: Terminal, service: S, options: RouterOptions) {
    this.#terminal = terminal;
    this.#service = service;
    this.#options = options;
  }

  /** Asks the first router that answers. @param ask has to be something that may be repeated. */
  async any<T>(ask: Ask<S, T>): Promise<T> {
    let failure: unknown;
    for (const address of await this.#addresses()) {
      try {
        return await this.#call(address, ask);
      } catch (error) {
        failure = error;
        if (!(error instanceof CommandError) || error.exitCode !== exitCodes.unreachable) break;
      }
    }
    throw failure;
  }

  /** Asks every router: the answers, or failures, in the order of the addresses. */
  async all<T>(ask: Ask<S, T>): Promise<{ address: string; answer?: T; failure?: unknown }[]> {
    const addresses = await this.#addresses();
    return Promise.all(
      addresses.map((address) =>
        this.#call(address, ask).then(
          (answer) => ({ address, answer }),
          (failure: unknown) => ({ address, failure }),
        ),
      ),
    );
  }

  async #call<T>(address: string, ask: Ask<S, T>): Promise<T> {
    const client = createClient(this.#service, { address, tls: operatorTls(this.#terminal) });
    try {
      return await ask(client);
    } catch (error) {
      throw meshFailure(error, address, OPTION);
    } finally {
      client.close();
    }
  }

  async #addresses(): Promise<string[]> {
    const resolved = this.#options.chatAddresses.map((address) =>
      isName(address)
        ? addressesOf(address).catch((cause) => {
            throw meshFailure(new MeshError('unavailable', 'unknown name', { cause }), address, OPTION);
          })
        : [address],
    );
    return (await Promise.all(resolved)).flat();
  }
}
