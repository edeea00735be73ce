import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import {
  Participant,
  type ParticipantPlatform,
  portableCrypto,
  type RoundSummary,
  TrainerModel,
  webSocketTransport,
} from '@shoal/lib/participant';
import { env } from 'onnxruntime-web/wasm';
import type { FederationInfo } from '../federation-info.ts';
import { element, page } from './dom.ts';
import { parseImages } from './image-lines.ts';
import { showRounds } from './rounds-view.ts';

// One thread: more would need the page to be isolated from all others.
env.wasm.numThreads = 1;
env.wasm.wasmPaths = '/ort/';

const browserPlatform: ParticipantPlatform = {
  newHash: () => {
    const hash = sha256.create();
    return {
      update: (chunk) => {
        hash.update(chunk);
      },
      digest: () => `sha256:${bytesToHex(hash.digest())}`,
    };
  },
  crypto: portableCrypto,
};

function say(text: string, isFault = false): void {
  const state = element('#state');
  state.textContent = text;
  state.className = isFault ? 'fault' : '';
}

async function takePart(info: FederationInfo): Promise<void> {
  const [file] = Array.from(element('#file').files ?? []);
  if (!file) throw new Error('choose a file with samples');
  const samples = parseImages(await file.text(), info.inputShape);
  say(`${samples.size} samples; fetching the model …`);
  const response = await fetch('/model.onnx');
  const model = await TrainerModel.create(
    { model: new Uint8Array(await response.arrayBuffer()), samples },
    info.local,
  );
  const { host, protocol, hash } = page.location;
  const scheme = protocol === 'https:' ? 'wss' : 'ws';
  let rounds: readonly RoundSummary[] = [];
  const participant = new Participant(
    {
      transport: webSocketTransport(`${scheme}://${host}/participate`),
      platform: browserPlatform,
      job: info.job,
      participant: element('#name').value,
      token: new URLSearchParams(hash.slice(1)).get('token') ?? '',
      onTask: (history) => {
        rounds = history;
        say(`training for round ${history.length + 1} …`);
        showRounds(rounds);
      },
      onRound: (round) => say(`round ${round} is trained; waiting for the others …`),
      onNotice: (reason) => say(reason),
    },
    model,
  );
  const result = await participant.run(new AbortController().signal);
  showRounds(result.history);
  say(`Done after ${result.rounds} rounds: ${result.reason}.`);
  await model.close();
}

async function begin(): Promise<void> {
  const info = (await (await fetch('/federation.json')).json()) as FederationInfo;
  element('#job').textContent = info.job;
  element('#pixels').textContent = info.inputShape.join(' × ');
  element('#name').value = `browser-${crypto.getRandomValues(new Uint32Array(1))[0]?.toString(36)}`;
  element('#form').addEventListener('submit', (event) => {
    event.preventDefault();
    element('#join').disabled = true;
    takePart(info).catch((error: unknown) => {
      say(error instanceof Error ? error.message : String(error), true);
      element('#join').disabled = false;
    });
  });
}

begin().catch((error: unknown) => say(String(error), true));
