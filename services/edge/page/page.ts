import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { type Credentials, isUserId, recall, remember, userOf } from './credentials.js';
import type { LinkState } from './link.js';
import { Log } from './log.js';
import { Start } from './start.js';
import type { Change } from './store.js';

/** Messages shown at first, and more at a time. */
const PAGE_SIZE = 200;
/** A wait is announced only after this long: most are over before. */
const PATIENCE_MS = 1_500;

const STATE_NAMES: Record<LinkState['kind'], string> = {
  connecting: 'Connecting…',
  'catching-up': 'Catching up…',
  online: 'Connected',
  waiting: 'No connection',
  replaced: 'Open elsewhere',
  refused: 'Signed out',
};

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const startScreen = element('start');
const chatScreen = element('chat');
const banner = element('banner');
const bannerButton = element<HTMLButtonElement>('banner-button');
const earlier = element<HTMLButtonElement>('earlier');
const down = element<HTMLButtonElement>('down');

let current: Conversation | undefined;
let credentials: Credentials | undefined;
/** The log shows everything of the conversation from here on. */
let oldestSeq = Number.POSITIVE_INFINITY;
let unreadCheck = 0;
let announcement: ReturnType<typeof setTimeout> | undefined;

const log = new Log(element('log'), (entry) => void current?.retry(entry));
const composer = new Composer(
  { form: element('composer'), text: element('text'), left: element('left'), send: element('send') },
  async (text) => {
    await current?.write(text);
    log.scrollToEnd();
  },
);
const start = new Start(
  {
    form: element('start-form'),
    error: element('start-error'),
    token: element('token'),
    hint: element('token-hint'),
    peer: element('peer'),
  },
  (chosen) => void open(chosen),
);

/** Leaves the conversation for the first screen. */
function ask(error?: string): void {
  leave();
  chatScreen.hidden = true;
  startScreen.hidden = false;
  document.title = 'chatmesh';
  start.show(credentials ?? recall(), error);
}

function leave(): void {
  current?.close();
  current = undefined;
  composer.enabled = false;
  clearTimeout(announcement);
  announcement = undefined;
  banner.hidden = true;
}

async function open(chosen: Credentials): Promise<void> {
  leave();
  credentials = chosen;
  remember(chosen);
  log.clear();
  oldestSeq = Number.POSITIVE_INFINITY;
  showPeer(chosen.peer);
  startScreen.hidden = true;
  chatScreen.hidden = false;

  let conversation: Conversation;
  try {
    conversation = await Conversation.open(chosen, {
      linkChanged: (state) => showLink(state),
      entriesChanged: (change) => show(change),
    });
    // Another conversation was opened meanwhile.
    if (credentials !== chosen) return conversation.close();
    current = conversation;
    composer.enabled = true;
    await showEarlier(Number.POSITIVE_INFINITY);
  } catch {
    return ask(
      'This browser keeps nothing for this page, so messages would be lost. Leave private browsing, or free disk space.',
    );
  }
  log.scrollToEnd();
  composer.focus();
  void checkUnread();
  await conversation.connect();
}

async function showEarlier(beforeSeq: number): Promise<void> {
  if (!current) return;
  const entries = await current.history(beforeSeq, PAGE_SIZE);
  log.prepend(entries);
  const complete = entries.length < PAGE_SIZE;
  oldestSeq = complete ? 0 : (entries[0]?.seq ?? 0);
  earlier.hidden = complete;
  element('empty').hidden = log.size > 0;
}

function show({ changed, removed }: Change): void {
  if (!credentials) return;
  const { me, peer } = credentials;
  const sizeBefore = log.size;
  const shown = changed.filter((entry) => entry.me === me && entry.peer === peer && entry.seq >= oldestSeq);
  log.apply({ changed: shown, removed });
  element('empty').hidden = log.size > 0;
  if (!log.atEnd && log.size > sizeBefore) down.hidden = false;
  void checkUnread();
}

function showLink(state: LinkState): void {
  chatScreen.dataset.link = state.kind;
  element('state').textContent = STATE_NAMES[state.kind];
  if (state.kind === 'connecting') return;
  if (state.kind === 'waiting') {
    announcement ??= setTimeout(
      announce,
      PATIENCE_MS,
      `No connection: ${state.reason}. What you write is sent later.`,
      'Try now',
    );
    return;
  }
  clearTimeout(announcement);
  announcement = undefined;
  switch (state.kind) {
    case 'online':
      banner.hidden = true;
      break;
    case 'replaced':
      composer.enabled = false;
      announce('You are connected in another tab or window.', 'Use here');
      break;
    case 'refused':
      ask(`Your token is not accepted: ${state.reason}. Please paste a new one.`);
      break;
  }
}

function announce(text: string, button: string): void {
  element('banner-text').textContent = text;
  bannerButton.textContent = button;
  banner.hidden = false;
}

function showPeer(peer: string): void {
  const name = element('peer-name');
  name.textContent = nameOf(peer);
  name.title = peer;
  const avatar = element('avatar');
  avatar.textContent = peer.slice(0, 2);
  avatar.style.background = `hsl(${Number.parseInt(peer.slice(0, 4), 16) % 360} 45% 48%)`;
}

/** What waits in other conversations, and in this one while nobody looks. */
async function checkUnread(): Promise<void> {
  const check = ++unreadCheck;
  const counts = await current?.unread();
  // A later check knows better.
  if (!counts || check !== unreadCheck || !credentials) return;
  const { peer } = credentials;
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  document.title = total > 0 && document.visibilityState !== 'visible' ? `(${total}) chatmesh` : 'chatmesh';
  const buttons = [...counts].filter(([other]) => other !== peer).map(([other, count]) => otherButton(other, count));
  element('others').replaceChildren(...buttons);
}

function otherButton(peer: string, count: number): HTMLButtonElement {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'soft';
  button.textContent = `${count} new from ${nameOf(peer)}`;
  button.onclick = () => {
    if (credentials) void open({ ...credentials, peer });
  };
  return button;
}

function nameOf(userId: string): string {
  return `User ${userId.slice(0, 8)}`;
}

bannerButton.addEventListener('click', () => {
  banner.hidden = true;
  // A replaced conversation begins anew, with what the other tab has stored meanwhile.
  if (chatScreen.dataset.link === 'replaced' && credentials) void open(credentials);
  else current?.wake();
});
element('change').addEventListener('click', () => ask());
earlier.addEventListener('click', () => void showEarlier(oldestSeq));
down.addEventListener('click', () => log.scrollToEnd());
element('scroller').addEventListener('scroll', () => {
  if (log.atEnd) down.hidden = true;
});
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return;
  current?.wake();
  void current?.seen();
  void checkUnread();
});
window.addEventListener('online', () => current?.wake());
// A link pasted into the address bar of this tab.
window.addEventListener('hashchange', begin);

function begin(): void {
  credentials = undefined;
  const { token, peer } = recall();
  const me = userOf(token);
  if (me !== undefined && isUserId(peer)) void open({ token, me, peer });
  else ask();
}

begin();
