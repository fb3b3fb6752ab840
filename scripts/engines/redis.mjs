import { spawnSync } from 'node:child_process';
import { Engine } from './engine.mjs';
import { ask } from './network.mjs';

/** Redis with an append-only file, which survives the death of the process. */
export class Redis extends Engine {
  static engineName = 'redis';
  static portNames = ['redis'];

  /** @override @returns {string[]} */
  static missing() {
    if (spawnSync('redis-server', ['--version']).status === 0) return [];
    return ['Redis: there is no redis-server (on Debian: apt-get install redis-server; on macOS: brew install redis).'];
  }

  /** @override @returns {Record<string, string>} */
  get env() {
    return { REDIS_URL: `redis://${this.host}:${this.ports.redis}` };
  }

  /** @override @param {{ timeoutMs: number }} options */
  async answers(options) {
    const reply = await ask(this.host, Number(this.ports.redis), ['PING\r\n'], options);
    return reply.toString().startsWith('+PONG');
  }

  /** @override @protected */
  async command() {
    const args = ['--bind', this.host, '--port', String(this.ports.redis), '--dir', this.directory];
    return { command: 'redis-server', args: [...args, '--appendonly', 'yes', '--save', ''] };
  }
}
