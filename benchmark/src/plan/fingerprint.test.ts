import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { codeDigest, dataDigest } from './fingerprint.ts';

const dir = mkdtempSync(join(tmpdir(), 'shoal-digest-'));
afterAll(() => rmSync(dir, { recursive: true }));

function put(name: string, text: string): string {
  mkdirSync(join(dir, name, '..'), { recursive: true });
  writeFileSync(join(dir, name), text);
  return join(dir, name);
}

describe('the hash of code', () => {
  const main = (): string =>
    put(
      'main.ts',
      "import {\n  a, // the model's (first) value\n} from './part.ts';\nexport * from './more.ts';\nconst lazy = () => import(`./lazy.ts`);\nconst table = new URL('./table.csv', import.meta.url);\n",
    );

  it.each(['part.ts', 'more.ts', 'lazy.ts', 'table.csv'])('changes with %s', (file) => {
    const path = main();
    put(file, 'before');
    const before = codeDigest([path]);
    put(file, 'after');
    expect(codeDigest([path])).not.toBe(before);
  });

  it('survives files that import each other', () => {
    const one = put('one.ts', "import './two.ts';");
    put('two.ts', "import './one.ts';");
    expect(codeDigest([one])).toHaveLength(64);
  });
});

describe('the hash of data', () => {
  it('changes when a line moves from one file to another', () => {
    const [train, test] = [put('train.jsonl', 'a\nb\n'), put('test.jsonl', 'c\n')];
    const before = dataDigest([train, test]);
    put('train.jsonl', 'a\nb\nc\n');
    put('test.jsonl', '');
    expect(dataDigest([train, test])).not.toBe(before);
  });

  it('changes when a file that an index lists does', () => {
    const index = put('index.txt', 'images/1.png 3\nimages/2.png 4\n');
    put('images/1.png', 'x');
    put('images/2.png', 'y');
    const before = dataDigest([index]);
    put('images/2.png', 'z');
    expect(dataDigest([index])).not.toBe(before);
  });
});
