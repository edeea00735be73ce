import { styled } from './style.ts';

const WIDTH = 24;
const REDRAW_MS = 80;

/** Stages one under the other, the current one with a bar; plain lines where there is no terminal. */
export class ProgressView {
  readonly #stream: NodeJS.WriteStream;
  #stage = '';
  #startedAt = 0;
  #drawnAt = 0;
  #open = false;

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream;
  }

  stage(text: string): void {
    this.finish();
    this.#stage = text;
    this.#startedAt = performance.now();
    this.#open = true;
    if (this.#stream.isTTY) this.#draw('');
    else this.#stream.write(`  ${text}\n`);
  }

  progress(share: number, text = ''): void {
    if (!this.#open || !this.#stream.isTTY || performance.now() - this.#drawnAt < REDRAW_MS) return;
    const filled = Math.round(Math.min(1, Math.max(0, share)) * WIDTH);
    this.#draw(
      `${'█'.repeat(filled)}${'░'.repeat(WIDTH - filled)} ${Math.round(share * 100)} % ${text}`,
    );
  }

  #draw(bar: string): void {
    this.#drawnAt = performance.now();
    this.#stream.write(`\r\x1b[2K${styled('cyan', '●', this.#stream)} ${this.#stage}  ${bar}`);
  }

  /** Ends the current stage. */
  finish(): void {
    if (!this.#open) return;
    this.#open = false;
    if (!this.#stream.isTTY) return;
    const seconds = ((performance.now() - this.#startedAt) / 1000).toFixed(1);
    this.#stream.write(
      `\r\x1b[2K${styled('green', '✔', this.#stream)} ${this.#stage} ${styled('dim', `${seconds} s`, this.#stream)}\n`,
    );
  }
}
