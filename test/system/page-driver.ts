import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { until } from '../mesh.js';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** @throws when there is no Chromium, saying what to install. */
export async function launchChromium(): Promise<Browser> {
  if (!existsSync(CHROMIUM)) {
    throw new Error(
      `this test drives a browser, and there is no Chromium at ${CHROMIUM}: install it (on Debian: apt-get install -y chromium), or set CHROMIUM to where it is`,
    );
  }
  return await chromium.launch({ executablePath: CHROMIUM, headless: true, args: ARGUMENTS });
}

/** One tab with the page in it, as its user sees it. */
export class Tab {
  readonly page: Page;
  /** Errors of the page's code, and what its content security policy refused. */
  readonly errors: string[];

  private constructor(page: Page, errors: string[]) {
    this.page = page;
    this.errors = errors;
  }

  static async open(context: BrowserContext, url: string): Promise<Tab> {
    const page = await context.newPage();
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => {
      // A server that is down is part of the tests.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource'))
        errors.push(message.text());
    });
    const tab = new Tab(page, errors);
    await page.goto(url);
    return tab;
  }

  /** Resolves when the connection has the given state. */
  async link(state: string): Promise<void> {
    await this.page.waitForSelector(`#chat[data-link="${state}"]`, { state: 'attached' });
  }

  /** Types a message and presses Enter. */
  async write(text: string): Promise<void> {
    await this.page.fill('#text', text);
    await this.page.press('#text', 'Enter');
  }

  /** Sends what is typed, and reloads the page while the browser is still busy with it. */
  async sendAndReload(): Promise<void> {
    const loaded = this.page.waitForEvent('load');
    await this.page.evaluate(() => {
      setTimeout(() => {
        document.querySelector<HTMLFormElement>('#composer')?.requestSubmit();
        // By the page itself: a reload from outside may come before the timer on a busy machine.
        location.reload();
        for (const end = performance.now() + 1_000; performance.now() < end; );
      });
    });
    await loaded;
  }

  /** The shown messages of the other user, from top to bottom. */
  theirs(): Promise<string[]> {
    return this.page.locator('.theirs p').allTextContents();
  }

  /** The shown messages of the tab's user, from top to bottom, with their ticks. */
  mine(): Promise<{ text: string; status: string }[]> {
    return this.page.locator('.mine').evaluateAll((elements) =>
      elements.map((element) => ({
        text: element.querySelector('p')?.textContent ?? '',
        status: element.getAttribute('data-status') ?? '',
      })),
    );
  }

  /** Resolves when exactly these are shown of the other user, in this order. */
  async shows(texts: string[]): Promise<void> {
    let shown: string[] = [];
    await until(
      async () => {
        shown = await this.theirs();
        return shown.length >= texts.length;
      },
      {
        what: () => `${texts.length} messages; not shown: ${texts.filter((text) => !shown.includes(text)).join(', ')}`,
      },
    );
    if (shown.join('\n') !== texts.join('\n'))
      throw new Error(`expected\n${texts.join('\n')}\nbut the page shows\n${shown.join('\n')}`);
  }

  /** Resolves when the ticks of the user's own messages are these, from top to bottom. */
  async ticks(...statuses: string[]): Promise<void> {
    let shown: string[] = [];
    await until(
      async () => {
        shown = (await this.mine()).map(({ status }) => status);
        return shown.join() === statuses.join();
      },
      { what: () => `ticks ${statuses.join()}; they are ${shown.join()}` },
    );
  }

  /** What a browser does when its user goes to another tab, or comes back. */
  async setVisible(visible: boolean): Promise<void> {
    await this.page.evaluate(
      (state) => {
        Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => state });
        document.dispatchEvent(new Event('visibilitychange'));
      },
      visible ? 'visible' : 'hidden',
    );
  }
}
