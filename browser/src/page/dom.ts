/** The few parts of a document that the page touches; the rest of the code must not see a document at all. */
export interface PageElement {
  textContent: string | null;
  innerHTML: string;
  hidden: boolean;
  disabled: boolean;
  value: string;
  className: string;
  readonly files?: ArrayLike<{ readonly name: string; text(): Promise<string> }>;
  addEventListener(type: 'submit', listener: (event: { preventDefault(): void }) => void): void;
}

interface PageGlobals {
  readonly document: { querySelector(selector: string): PageElement | null };
  readonly location: { readonly host: string; readonly protocol: string; readonly hash: string };
}

export const page = globalThis as unknown as PageGlobals;

/** @throws Error when the page has no such element. */
export function element(selector: string): PageElement {
  const found = page.document.querySelector(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}
