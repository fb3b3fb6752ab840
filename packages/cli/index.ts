export { type Conversation, readConversations, type Script, type Turn, writeScript } from './demo/script.js';
export { run } from './program.js';
export { printable, type Terminal, widthOf } from './terminal.js';
