import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser } from 'playwright-core';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { launchChromium, Tab } from './page-driver.js';

describe('the page at /', () => {
  let mesh: TestMesh;
  let browser: Browser;
  let ada: TestUser;
  let bob: TestUser;
  let tabs: Tab[];

  beforeAll(async () => {
    browser = await launchChromium();
    // Each service in its own process, so that the edge can die alone.
    mesh = await TestMesh.start({ split: true });
  });
  afterAll(async () => {
    await browser?.close();
    await mesh?.[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    tabs = [];
  });
  afterEach(async () => {
    const errors = tabs.flatMap((tab) => tab.errors);
    await Promise.all((browser?.contexts() ?? []).map((context) => context.close()));
    expect(errors).toEqual([]);
  });

  function linkOf(user: TestUser, peer: TestUser): string {
    return `${mesh.httpUrl}/#token=${user.token}&to=${peer.userId}`;
  }

  /** A browser of its own, connected. */
  async function open(user: TestUser, peer: TestUser): Promise<Tab> {
    const tab = await openIn(await browser.newContext(), linkOf(user, peer));
    await tab.link('online');
    return tab;
  }

  async function openIn(context: Awaited<ReturnType<Browser['newContext']>>, url: string): Promise<Tab> {
    const tab = await Tab.open(context, url);
    tabs.push(tab);
    return tab;
  }

  test('two people talk, and the ticks say how far each message has come', async () => {
    const adas = await open(ada, bob);
    await adas.write('Are you there?');
    await adas.ticks('sent');

    const bobs = await open(bob, ada);
    await bobs.shows(['Are you there?']);
    await adas.ticks('read');

    await bobs.setVisible(false);
    await adas.write('<b>Still</b> there?');
    await bobs.shows(['Are you there?', '<b>Still</b> there?']);
    await adas.ticks('read', 'delivered');
    expect(await bobs.page.title()).toBe('(1) chatmesh');

    await bobs.setVisible(true);
    await adas.ticks('read', 'read');
    expect(await bobs.page.title()).toBe('chatmesh');

    await bobs.write('نعم، أنا هنا');
    await adas.shows(['نعم، أنا هنا']);
    await bobs.ticks('read');
  });

  test('the token leaves the address bar and survives a reload', async () => {
    const tab = await open(ada, bob);
    expect(tab.page.url()).toBe(`${mesh.httpUrl}/`);
    await tab.write('before');
    await tab.ticks('sent');
    await tab.page.reload();
    await tab.link('online');
    await tab.ticks('sent');
  });

  test('without a link, token and recipient are asked for', async () => {
    const tab = await openIn(await browser.newContext(), `${mesh.httpUrl}/`);
    await tab.page.getByLabel('Your token').fill('not a token');
    await tab.page.getByRole('button', { name: 'Start talking' }).click();
    await tab.page.getByText('That is not a token').waitFor();
    await tab.page.getByLabel('Your token').fill(ada.token);
    await tab.page.getByLabel('Write to').fill(bob.userId.toUpperCase());
    await tab.page.getByRole('button', { name: 'Start talking' }).click();
    await tab.link('online');
    await tab.page.getByLabel('Message', { exact: true }).fill('hello');
    await tab.page.getByRole('button', { name: 'Send' }).click();
    await tab.ticks('sent');
  });

  test('a reload in the middle of a stream of messages, at either end, loses, doubles and reorders nothing', async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    const texts = Array.from({ length: 50 }, (_, i) => `message ${i + 1}`);
    const written = (async () => {
      for (const text of texts) await adas.write(text);
      await adas.page.reload();
    })();
    await until(async () => (await bobs.theirs()).length >= 15);
    await bobs.page.reload();
    await written;
    await bobs.shows(texts);
    await adas.ticks(...texts.map(() => 'read'));
    expect((await adas.mine()).map(({ text }) => text)).toEqual(texts);

    await Promise.all([adas.page.reload(), bobs.page.reload()]);
    await Promise.all([adas.link('online'), bobs.link('online')]);
    expect(await bobs.theirs()).toEqual(texts);
    expect((await adas.mine()).map(({ text }) => text)).toEqual(texts);
  });

  test('what is written in the moment of a reload is sent', async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    const texts = Array.from({ length: 5 }, (_, i) => `message ${i + 1}`);
    for (const text of texts) {
      await adas.page.fill('#text', text);
      await adas.sendAndReload();
    }
    await bobs.shows(texts);
    await adas.ticks(...texts.map(() => 'read'));
  });

  test('when the edge is killed both recover, and what was written meanwhile arrives once', async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    const edge = mesh.process('edge');
    const texts = Array.from({ length: 10 }, (_, i) => `message ${i + 1}`);
    for (const text of texts.slice(0, 5)) await adas.write(text);
    await edge.end('SIGKILL');
    for (const text of texts.slice(5)) await adas.write(text);
    await adas.page.getByText('No connection:').waitFor();
    expect((await adas.mine()).at(-1)?.status).toBe('sending');

    await edge.start();
    await bobs.shows(texts);
    await adas.ticks(...texts.map(() => 'read'));
    await adas.page.getByText('No connection:').waitFor({ state: 'hidden' });
    await adas.write('after');
    await bobs.shows([...texts, 'after']);
  });

  test('a message whose acceptance got lost on the way back, even over a reload, arrives once', async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    await adas.page.route('**/chat.v1.ChatService/Send', async (route) => {
      // The page, or the rule, may be gone by then.
      await route
        .fetch()
        .then(() => route.abort())
        .catch(() => {});
    });
    await adas.write('one');
    await bobs.shows(['one']);
    await adas.page.reload();
    await adas.page.unroute('**/chat.v1.ChatService/Send');
    await adas.link('online');
    await adas.write('two');
    await adas.ticks('read', 'read');
    await bobs.shows(['one', 'two']);
  });

  test("a proxy's answer is not taken for the server's: the message waits, and so does the connection", async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    const answers = [
      { status: 403, contentType: 'text/html', body: '<html>Forbidden</html>' },
      { status: 404, contentType: 'application/json', body: '{"message":"no route"}' },
      { status: 401, contentType: 'application/json', body: '{"error":{"code":401}}' },
      { status: 200, contentType: 'text/html', body: '<html>log in to the network</html>' },
    ];
    for (const method of ['Send', 'Receive']) {
      let asked = 0;
      await adas.page.route(`**/chat.v1.ChatService/${method}`, (route) => {
        const answer = answers[asked++];
        return answer ? route.fulfill(answer) : route.continue();
      });
      if (method === 'Receive') await adas.page.reload();
      await adas.write(method);
      await adas.ticks(...(method === 'Send' ? ['read'] : ['read', 'read']));
      expect(asked).toBeGreaterThan(answers.length);
      await adas.page.unroute(`**/chat.v1.ChatService/${method}`);
    }
    await bobs.shows(['Send', 'Receive']);
  });

  test('a message that could not be confirmed before a reload comes again and is shown once', async () => {
    const [adas, bobs] = [await open(ada, bob), await open(bob, ada)];
    let attempts = 0;
    await bobs.page.route('**/chat.v1.ChatService/Acknowledge', (route) => {
      attempts++;
      return route.abort();
    });
    await adas.write('one');
    await bobs.shows(['one']);
    await until(() => attempts > 0);
    await adas.ticks('sent');
    await bobs.page.reload();
    await bobs.link('online');
    await bobs.page.unroute('**/chat.v1.ChatService/Acknowledge');
    await adas.ticks('read');
    await adas.write('two');
    await bobs.shows(['one', 'two']);
  });

  test('a second tab of the same device takes over; the first says so and can take it back', async () => {
    const context = await browser.newContext();
    const first = await openIn(context, linkOf(ada, bob));
    await first.link('online');
    const second = await openIn(context, linkOf(ada, bob));
    await second.link('online');
    await first.link('replaced');
    await first.page.getByText('You are connected in another tab').waitFor();
    expect(await first.page.getByLabel('Message', { exact: true }).isDisabled()).toBe(true);

    await second.write('from the second');
    await first.ticks('sent');
    await first.page.getByRole('button', { name: 'Use here' }).click();
    await first.link('online');
    await second.link('replaced');
    await first.write('from the first');
    const bobs = await open(bob, ada);
    await bobs.shows(['from the second', 'from the first']);
    await first.ticks('read', 'read');
    await second.ticks('read', 'read');
  });

  test('a message that is refused says why and can be sent again', async () => {
    const nobody = { ...bob, userId: '11111111-1111-4111-8111-111111111111' };
    const tab = await open(ada, nobody);
    await tab.write('hello?');
    await tab.ticks('failed');
    await tab.page.getByText('There is no such user.').waitFor();
    const retry = tab.page.getByRole('button', { name: 'Send again' });
    const before = await retry.elementHandle();
    await retry.click();
    await until(async () => !(await before?.evaluate((element) => element.isConnected)));
    await tab.ticks('failed');
  });

  test('a message from somebody else is kept and opens on a click', async () => {
    const [eve] = (await mesh.users(1)) as [TestUser];
    const [adas, eves] = [await open(ada, bob), await open(eve, ada)];
    await eves.write('It is me');
    await eves.ticks('delivered');
    await adas.page.getByRole('button', { name: '1 new from' }).click();
    await adas.shows(['It is me']);
    await eves.ticks('read');
  });

  test('when a token is no longer accepted, another one is asked for', async () => {
    const [carol] = (await mesh.users(1, { ttlSeconds: 2 })) as [TestUser];
    const tab = await openIn(await browser.newContext(), linkOf(carol, bob));
    await tab.page.getByText('Your token is not accepted').waitFor();
    expect(await tab.page.getByLabel('Write to').inputValue()).toBe(bob.userId);
  });
});
