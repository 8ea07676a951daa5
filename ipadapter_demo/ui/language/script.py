"""The language of the page, chosen in the browser before gradio reads it there."""

from __future__ import annotations

LOST = (
    "Another language opens the page anew. The history stays; what is in the fields, and runs that "
    "are not finished, do not."
)

# gradio takes its own words from `navigator.language`, so the choice is put there. It
# sets `lang` by its own choice of a language, in its settings: one of ours becomes the page's, with
# any other the page stays as it is. What a visitor wrote is in fields and code, and not looked at;
# what is always English says lang=en; prompts of examples are no texts of the table.
SCRIPT = r"""(() => {
    const LANGUAGES = ["en", "zh-CN"], root = document.documentElement;
    const kept = () => { try { return localStorage.getItem("language"); } catch { return null; } };
    const nearest = (name) => /^zh\b/i.test(name) ? "zh-CN" : "en";
    const language = LANGUAGES.includes(kept()) ? kept() : nearest(navigator.language);
    Object.defineProperty(navigator, "language", { get: () => language });
    Object.defineProperty(navigator, "languages", { get: () => [language] });
    let touched = false;  // by the visitor
    for (const kind of ["input", "change", "drop", "click"])
        document.addEventListener(kind, ({ target, isTrusted }) => {
            const aside = "[data-language], .skip, [role=tab], footer";
            touched ||= isTrusted && !target.closest?.(aside);
        }, true);
    const choose = (name) => {
        if (touched && !confirm(window.translated("LOST"))) return;
        try { localStorage.setItem("language", name); } catch { return; }
        location.reload();
    };
    root.lang = language;
    new MutationObserver(() => {
        if (root.lang === language) return;
        if (nearest(root.lang) !== language) choose(nearest(root.lang));
        root.lang = language;
    }).observe(root, { attributeFilter: ["lang"] });
    document.addEventListener("click", ({ target }) => {
        const button = target.closest?.("[data-language]");
        if (button) choose(button.dataset.language);
    });
    window.translated = (text) => text;
    if (language === "en") return;

    const ATTRIBUTES = ["aria-label", "aria-valuetext", "title", "alt", "placeholder"];
    const OWN = "[lang=en], pre, code, .cm-editor";  // not the page's words
    const MOST = 5000, LONGEST = 2000;  // texts that are remembered, and their characters
    const VALUE = { "{}": "([^]+?)", "{n}": "([-−+\\d.,]+)" };
    const pattern = (text) => new RegExp("^" + text.split(/(\{n?\})/).map((part) =>
        VALUE[part] ?? part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("") + "$");
    const words = (text) => text.split(/\{n?\}/);
    // Before the pattern is tried, which takes long over a text that it nearly fits
    const holds = (text, parts) => {
        let at = 0;
        for (const part of parts) if ((at = text.indexOf(part, at) + part.length) < part.length)
            return false;
        return true;
    };
    const plain = (text) => words(text).join("").length;
    let table = null, templates = [];
    const read = () => {
        table = window.gradio_config?.i18n_translations?.[language] ?? null;
        // the more of its own words a text has, the sooner it is tried
        templates = Object.entries(table ?? {}).filter(([english]) => /\{n?\}/.test(english))
            .sort(([one], [other]) => plain(other) - plain(one))
            .map(([english, chinese]) => [words(english), pattern(english), chinese]);
    };
    const known = new Map();
    const filled = (chinese, values) => {
        let next = 0;
        return chinese.replace(/\{(\d*)n?\}/g, (_, place) => {
            const value = values[place ? place - 1 : next++];
            return said(value) ?? value;
        });
    };
    const found = (text) => {
        if (Object.hasOwn(table, text)) return table[text];
        for (const [parts, english, chinese] of templates) {
            const values = holds(text, parts) && english.exec(text);
            if (values) return filled(chinese, values.slice(1));
        }
        return null;
    };
    // The Chinese of a text, or null
    const said = (text) => {
        if (text.length > LONGEST || !/[A-Za-z]/.test(text)) return null;
        if (!known.has(text)) {
            if (known.size > MOST) known.clear();
            const bare = text.trim();
            known.set(text, found(bare) ?? found(bare.replace(/\s+/g, " ")));
        }
        return known.get(text);
    };
    const put = (text, write) => {
        const chinese = said(text);
        const around = /^(\s*)[^]*?(\s*)$/;
        if (chinese !== null && chinese !== text.trim())
            write(text.replace(around, (_, before, after) => before + chinese + after));
    };
    const inText = (node) => {
        const of = node.parentElement;
        if (of && !of.closest(OWN) && !/^(SCRIPT|STYLE|TEXTAREA)$/.test(of.tagName))
            put(node.data, (text) => { node.data = text; });
    };
    const inAttribute = (element, name) => {
        const text = element.getAttribute(name);
        if (text && !element.closest(OWN)) put(text, (now) => element.setAttribute(name, now));
    };
    const within = (node) => {
        if (node.nodeType === Node.TEXT_NODE) return inText(node);
        if (node.nodeType !== Node.ELEMENT_NODE) return;
        const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) inText(walk.currentNode);
        const selector = ATTRIBUTES.map((name) => `[${name}]`).join();
        for (const one of [node, ...node.querySelectorAll(selector)])
            for (const name of ATTRIBUTES) inAttribute(one, name);
    };
    window.translated = (text) => (table && said(text)) ?? text;
    new MutationObserver((changes) => {
        if (table === null) read();
        if (table === null) return;
        for (const { type, target, addedNodes, attributeName } of changes) {
            if (type === "attributes") inAttribute(target, attributeName);
            else if (type === "characterData") inText(target);
            else addedNodes.forEach(within);
        }
    }).observe(root, {
        childList: true, subtree: true, characterData: true, attributes: true,
        attributeFilter: ATTRIBUTES,
    });
})();""".replace("LOST", LOST)
