import { addressToCall } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { operator } from '../operator.js';

interface Created {
  readonly user_id: string;
  readonly device_id: string;
  readonly contact_number: string;
  readonly token: string;
}

describe('a mesh', () => {
  test.each(['::1', '::', 'localhost'])(
    'that listens on %s is found there by its parts, by clients and by the command line',
    async (host) => {
      const env = { MESH_HOST: host, MESH_INSECURE: 'true', EDGE_HOST: host, ADMIN_HOST: host };
      await using mesh = await TestMesh.start({ env });
      const port = mesh.userAddress.slice(mesh.userAddress.lastIndexOf(':') + 1);
      const number = ['--contact-number', '+15550100', '--name', 'Ada', '--count', '2'];
      const variables = { MESH_HOST: host, USER_PORT: port, EDGE_HOST: host, EDGE_PORT: '1' };
      const { exitCode, out, err } = await operator(variables, 'user', 'create', ...number);
      expect(exitCode).toBe(0);
      expect(err).toContain(`http://${addressToCall(host, 1)}/`);
      const [ada, bob] = out.map((line): TestUser => {
        const {
          user_id: userId,
          device_id: deviceId,
          contact_number: contactNumber,
          token,
        } = JSON.parse(line) as Created;
        return { userId, deviceId, contactNumber, token };
      }) as [TestUser, TestUser];
      const [a, b] = await Promise.all([WireClient.connect(mesh.url, ada), WireClient.connect(mesh.url, bob)]);
      expect(await a.answer(a.message(bob, 'hello'))).toMatchObject({ status: 'sent' });
      await b.frame((frame) => frame.content === 'hello');
      await Promise.all([a.close(), b.close()]);
    },
  );

  test('says "ready" when it is, and not before', async () => {
    await using mesh = await TestMesh.start({ split: true });
    const [edge, chat] = [mesh.process('edge'), mesh.process('chat')];
    const count = (words: string) => edge.output.split(words).length;
    await Promise.all([edge.end('SIGKILL'), chat.end('SIGKILL')]);
    const [started, ready] = [count('edge started'), count('"msg":"ready"')];
    edge.launch();
    await until(() => count('edge started') > started, { what: 'an edge that has no router yet' });
    await until(async () => (await fetch(`http://127.0.0.1:${edge.adminPort}/readyz`)).status === 503, {
      what: 'its word',
    });
    expect(count('"msg":"ready"')).toBe(ready);
    await chat.start();
    await until(() => count('"msg":"ready"') > ready, { what: 'the word' });
  });
});
