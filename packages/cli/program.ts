import { Command, CommanderError, Option } from 'commander';
import { closeCommand, deadLettersCommand, dealWithCommand, ownerCommand, suspendCommand } from './commands/admin.js';
import { chatCommand } from './commands/chat.js';
import { inboxCommand } from './commands/inbox.js';
import { migrateCommand } from './commands/migrate.js';
import { sendCommand } from './commands/send.js';
import { statusCommand } from './commands/status.js';
import { tailCommand } from './commands/tail.js';
import { createUserCommand } from './commands/user.js';
import { demoCommand } from './demo/demo.js';
import { CommandError, exitCodes } from './failure.js';
import {
  jsonOption,
  parseContactNumber,
  parseCount,
  parseRate,
  parseTtl,
  parseUuid,
  routersOption,
  tokenOption,
  urlOption,
  userAddressOption,
} from './options.js';
import type { Terminal } from './terminal.js';

/** Runs one command line, without the program's name. Returns the exit code; prints, and never throws. */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await program(terminal).parseAsync(args, { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    if (terminal.signal.aborted && !(error instanceof CommandError)) return exitCodes.refused;
    terminal.err(error instanceof Error ? error.message : String(error));
    return error instanceof CommandError ? error.exitCode : exitCodes.refused;
  }
}

function program(terminal: Terminal): Command {
  const { env } = terminal;
  const root = new Command('chatmesh')
    .description('Talks to a running mesh: start one with `npm start`.')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      getOutHelpWidth: () => terminal.columns,
      getErrHelpWidth: () => terminal.columns,
    })
    .showHelpAfterError('(--help shows how)')
    .addHelpText(
      'after',
      examples(
        'chatmesh demo',
        'chatmesh user create --contact-number +15550100 --name Ada --count 2',
        'chatmesh chat --token "$TOKEN" --to "$USER_ID"',
      ) +
        '\nExit codes: 0 done, 1 refused or a promise broken, 2 wrong usage, 3 nothing answers.\n' +
        'A token given as CHATMESH_TOKEN is not seen by others on the machine.',
    );

  const user = root.command('user').description('users');
  user
    .command('create')
    .description('Creates users with one device and a token each: a line of JSON for each, and a link for the browser.')
    .requiredOption('--contact-number <number>', 'the first contact number, counted up', parseContactNumber)
    .requiredOption('--name <name>', 'the display name; numbered when there are several')
    .option('--count <n>', 'how many', parseCount, 1)
    .addOption(new Option('--ttl <time>', 'how long the tokens live').argParser(parseTtl).default(30 * 86_400, '30d'))
    .addOption(userAddressOption(env))
    .addOption(urlOption(env))
    .addOption(new Option('--json', 'the same: users are always printed as JSON').hideHelp())
    .addHelpText('after', examples('chatmesh user create --contact-number +15550100 --name Ada --count 100 --ttl 12h'))
    .action((options) => createUserCommand(terminal, options));

  connected('send', 'Sends one message; ends well when it is durable on the server.')
    .argument('[text]', 'what to say; read from standard input unless given')
    .requiredOption('--to <user_id>', 'to whom', parseUuid)
    .addOption(new Option('--wait <status>', 'wait for this').choices(['sent', 'delivered', 'read']).default('sent'))
    .option('--client-message-id <uuid>', 'send under this id: the same one is accepted once', parseUuid)
    .addHelpText(
      'after',
      examples('chatmesh send --to "$USER_ID" "How are you?"', 'date | chatmesh send --to "$USER_ID" --wait read'),
    )
    .action((text, options) => sendCommand(terminal, text, options));

  connected('tail', 'Prints what arrives, and confirms it.')
    .option('--no-confirm', 'leave everything unconfirmed: it comes again')
    .option('--once', 'end when everything that waited has arrived', false)
    .addHelpText('after', examples('chatmesh tail --json', 'chatmesh tail --once --no-confirm'))
    .action((options) => tailCommand(terminal, options));

  connected('chat', 'A chat with one user in the terminal.')
    .requiredOption('--to <user_id>', 'with whom', parseUuid)
    .addHelpText('after', examples('chatmesh chat --token "$TOKEN" --to "$USER_ID"'))
    .action((options) => chatCommand(terminal, options));

  root
    .command('status')
    .description('Says where messages stand that you sent; with --explain, every hop of any message, for operators.')
    .argument('<server_message_id...>', 'which', (id: string, ids: string[] = []) => [...ids, parseUuid(id)])
    .addOption(tokenOption(env))
    .option('--explain', 'the time of every hop, and where the message lies now; asks the routers', false)
    .addOption(urlOption(env))
    .addOption(routersOption(env))
    .addOption(jsonOption())
    .addHelpText(
      'after',
      examples('chatmesh status "$SERVER_MESSAGE_ID"', 'chatmesh status --explain "$SERVER_MESSAGE_ID"'),
    )
    .action((ids, options) => statusCommand(terminal, ids, options));

  root
    .command('inbox')
    .description('Lists what waits for a device or for all of a user: for operators, without the content.')
    .addOption(tokenOption(env).conflicts('userId'))
    .option('--user-id <user_id>', 'whose, without a token', parseUuid)
    .option('--device-id <device_id>', 'one device only', parseUuid)
    .option('--limit <n>', 'at most this many, up to 1000', parseCount, 100)
    .addOption(routersOption(env))
    .addOption(jsonOption())
    .addHelpText('after', examples('chatmesh inbox --user-id "$USER_ID"'))
    .action((options) => inboxCommand(terminal, options));

  addAdmin(root, terminal);

  root
    .command('migrate')
    .description(
      'Prepares the real engines that the environment names, such as DATABASE_URL; repeating it changes nothing.',
    )
    .addOption(jsonOption())
    .addHelpText('after', examples('DATABASE_URL=postgres://user:password@db.example/chatmesh chatmesh migrate'))
    .action((options) => migrateCommand(terminal, options));

  root
    .command('demo')
    .description('Plays real conversations between two users, one of them away in the middle, and judges the mesh.')
    .option('--messages <n>', 'how many; all that are shipped unless given', parseCount)
    .option('--speed <n>', 'messages a second; as fast as they go unless given', parseRate)
    .option('--verbose', 'show every message', false)
    .addOption(urlOption(env))
    .addOption(userAddressOption(env))
    .addOption(jsonOption())
    .addHelpText(
      'after',
      examples('chatmesh demo', 'chatmesh demo --messages 5000 --json', 'chatmesh demo --speed 5 --verbose'),
    )
    .action((options) => demoCommand(terminal, options));
  return root;

  function connected(name: string, description: string): Command {
    return root
      .command(name)
      .description(description)
      .addOption(tokenOption(env).makeOptionMandatory())
      .addOption(urlOption(env))
      .addOption(jsonOption());
  }
}

/** For operators: asks the services themselves, not the edge. */
function addAdmin(root: Command, terminal: Terminal): void {
  const { env } = terminal;
  const admin = root.command('admin').description('for operators: users, sessions, dead letters');
  const command = (name: string, description: string) =>
    admin.command(name).description(description).addOption(routersOption(env)).addOption(jsonOption());

  for (const [name, suspended, description] of [
    ['suspend', true, 'Forbids a user to connect and to send, and ends its sessions; what others send it waits.'],
    ['unsuspend', false, 'Lets a suspended user connect and send again.'],
  ] as const) {
    command(name, description)
      .argument('<user_id>', 'who', parseUuid)
      .addOption(userAddressOption(env))
      .addHelpText('after', examples(`chatmesh admin ${name} "$USER_ID"`))
      .action((userId, options) => suspendCommand(terminal, userId, suspended, options));
  }

  command('close', 'Ends the sessions of a user on all edges; its clients may connect again.')
    .argument('<user_id>', 'whose', parseUuid)
    .option('--device <device_id>', 'of this device only', parseUuid)
    .addHelpText('after', examples('chatmesh admin close "$USER_ID" --device "$DEVICE_ID"'))
    .action((userId, options) => closeCommand(terminal, userId, options));

  command('owner', 'Says which router owns a user, how its devices stand, and what they wait for.')
    .argument('<user_id>', 'whose', parseUuid)
    .addHelpText('after', examples('chatmesh admin owner "$USER_ID" --chat-addresses chat-1:7001,chat-2:7001'))
    .action((userId, options) => ownerCommand(terminal, userId, options));

  command('dead-letters', 'Lists events that were given up, oldest first, without their content.')
    .option('--limit <n>', 'at most this many', parseCount, 100)
    .addHelpText('after', examples('chatmesh admin dead-letters --json'))
    .action((options) => deadLettersCommand(terminal, options));

  command('redrive', 'Puts dead letters on the log again.')
    .argument('[id...]', 'which')
    .option('--all', 'all of them', false)
    .option(
      '--deliver-failed',
      'also messages whose senders were told that they failed: they keep seeing that, and may have sent them again',
      false,
    )
    .addHelpText('after', examples('chatmesh admin redrive --all', 'chatmesh admin redrive --deliver-failed "$ID"'))
    .action((ids, options) => dealWithCommand(terminal, ids, 'redrive', options));

  command('discard', 'Drops dead letters for good, with their content.')
    .argument('[id...]', 'which')
    .option('--all', 'all of them', false)
    .addHelpText('after', examples('chatmesh admin discard "$ID"'))
    .action((ids, options) => dealWithCommand(terminal, ids, 'discard', options));
}

function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}\n`;
}
