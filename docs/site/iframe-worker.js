// Browsers start no worker for pages that were opened from a folder. The search then runs in a hidden frame, which is
// sent the same messages and answers in the same way.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.started = new Promise((resolve, reject) => {
        this.frame.addEventListener("load", () => this.start(url, resolve, reject), { once: true });
      });
      document.body.appendChild(this.frame);
    }

    start(url, resolve, reject) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      script.src = new URL(url, location.href);
      script.addEventListener("load", resolve);
      script.addEventListener("error", reject);
      inside.document.head.appendChild(script);
    }

    postMessage(data) {
      this.started.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
